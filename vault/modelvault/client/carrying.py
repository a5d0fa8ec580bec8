"""What a copy that was cut off leaves for the next one, in a file of the user's own.

It holds no key: the import that was opened, the keys as they were sealed for the receiving vault
alone, and of each file its objects' names and the parts that the store has. A journal that is
broken, or of an import that is gone, is no error: the copy just begins anew.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import msgspec

from modelvault import canonical
from modelvault.client.lines import LineFile, lock_file, read_lines
from modelvault.copies import HandedOver, Importing


class Opened(msgspec.Struct, frozen=True, tag="import"):
    """The import that all lines are of."""

    importing: Importing


class Handed(msgspec.Struct, frozen=True, tag="handed"):
    """The keys that it got, sealed."""

    handed: HandedOver


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """A file whose transfer began, and the seeds of its two objects."""

    path: str
    seeds: tuple[str, str]


class Sending(msgspec.Struct, frozen=True, tag="sending"):
    """The transfer at the store that the file's parts go to."""

    path: str
    transfer: str


class Sent(msgspec.Struct, frozen=True, tag="sent"):
    """Parts `start` to `stop` that the store has."""

    path: str
    start: int
    stop: int


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """A file that lies in the store whole."""

    path: str
    seeds: tuple[str, str]


Line = Opened | Handed | Begun | Sending | Sent | Finished
_LINE = msgspec.json.Decoder(Line)


class Carrying(LineFile):
    """One copy's file."""

    def __init__(self, path: Path, descriptor: int) -> None:
        super().__init__(path, descriptor)
        self._lines: list[Line] = read_lines(descriptor, _LINE)

    @property
    def importing(self) -> Importing | None:
        """The import to go on with."""
        first = self._lines[0] if self._lines else None
        return first.importing if isinstance(first, Opened) else None

    @property
    def handed(self) -> HandedOver | None:
        """Its keys, if they came already."""
        found = [each for each in self._lines if isinstance(each, Handed)]
        return found[-1].handed if found else None

    def start(self, importing: Importing) -> None:
        """Begin anew, for this import."""
        self._lines = []
        self.empty()
        self.write(Opened(importing))

    def finished(self, path: str) -> tuple[str, str] | None:
        """The seeds of a file that an earlier run has put whole."""
        found = [each for each in self._lines if isinstance(each, Finished) and each.path == path]
        return found[-1].seeds if found else None

    def trail(self, path: str) -> FileTrail:
        """Where the transfer of a file goes on, or begins."""
        begun: Begun | None = None
        transfer: str | None = None
        parts: set[int] = set()
        for line in self._lines:
            if getattr(line, "path", None) != path:
                continue
            if isinstance(line, Begun):
                begun, transfer, parts = line, None, set()
            elif isinstance(line, Sending):
                transfer = line.transfer
            elif isinstance(line, Sent):
                parts.update(range(line.start, line.stop))
        if begun is None or transfer is None:
            return self.fresh(path)
        return FileTrail(self, path, begun.seeds, transfer, frozenset(parts))

    def fresh(self, path: str) -> FileTrail:
        """Begin a file's transfer, under names of its own."""
        seeds = (secrets.token_hex(16), secrets.token_hex(16))
        self.write(Begun(path, seeds))
        return FileTrail(self, path, seeds, None, frozenset())


class FileTrail:
    """`ports.objects.Track` of one file, kept in the journal."""

    def __init__(
        self,
        journal: Carrying,
        path: str,
        seeds: tuple[str, str],
        transfer: str | None,
        parts: frozenset[int],
    ) -> None:
        self._journal = journal
        self._path = path
        self.seeds = seeds
        self.transfer = transfer
        self._parts = parts

    def has(self, piece: int) -> bool:
        """See Track."""
        return piece in self._parts

    def begun(self, transfer: str) -> None:
        """See Track."""
        self.transfer = transfer
        self._journal.write(Sending(self._path, transfer))

    def sent(self, start: int, stop: int) -> None:
        """See Track."""
        self._journal.write(Sent(self._path, start, stop))

    def finished(self) -> None:
        """The file lies in the store whole."""
        self._journal.write(Finished(self._path, self.seeds))


def open_carrying(folder: Path | None, source: str, target: str) -> Carrying | None:
    """The journal of a copy of the manifest `source` to the model `target`, locked; None where
    there can't be one: no folder, one that can't be written, or another process that copies it."""
    if folder is None:
        return None
    named = canonical.dumps({"copy": source, "to": target})
    path = folder / (hashlib.sha256(named).hexdigest()[:32] + ".copy")
    descriptor = lock_file(path)
    return None if descriptor is None else Carrying(path, descriptor)
