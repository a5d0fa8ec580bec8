"""What a push that was cut off leaves for the next one, in a file of the pusher's own.

It holds no secret: which upload it was, and of each file its state, its objects' names, the header,
the leaves of what the store has and its plaintext's hashes under a key that isn't in here. The keys
come from the broker again, for the same identity alone. A journal that is broken, of other files or
of an upload that is gone is no error: the push just begins anew.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from modelvault import canonical
from modelvault.client.content import Content
from modelvault.client.lines import LineFile, lock_file, read_lines
from modelvault.manifest import TensorEntry
from modelvault.reference import Reference
from modelvault.upload import DraftFile, Upload

_LEAF = 32


class Opened(msgspec.Struct, frozen=True, tag="upload"):
    """The upload that all lines are of."""

    upload: str


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """A file whose encryption began: its state, the seeds of its two objects, its header."""

    path: str
    state: tuple[int, ...]
    seeds: tuple[str, str]
    header: bytes


class Tagged(msgspec.Struct, frozen=True, tag="tagged"):
    """A file that was read to be compared, and its content tag: nothing without the key."""

    path: str
    state: tuple[int, ...]
    content: bytes


class Sending(msgspec.Struct, frozen=True, tag="sending"):
    """The transfer at the store that the file's pieces go to."""

    path: str
    transfer: str


class Leaves(msgspec.Struct, frozen=True, tag="sent"):
    """The leaves of pieces that the store has, from `start` on, and their plaintext's keyed
    hashes."""

    path: str
    start: int
    leaves: bytes
    contents: bytes


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """A file that lies in the store whole."""

    path: str
    state: tuple[int, ...]
    file: DraftFile
    format: str
    tensors: tuple[TensorEntry, ...]


FileLine = Begun | Tagged | Sending | Leaves | Finished
Line = Opened | FileLine
_LINE = msgspec.json.Decoder(Line)


class Journal(LineFile):
    """One push's file."""

    def __init__(self, path: Path, descriptor: int) -> None:
        super().__init__(path, descriptor)
        lines: list[Line] = read_lines(descriptor, _LINE)
        first = lines[0] if lines else None
        self.upload = first.upload if isinstance(first, Opened) else None  # the one to go on with
        self._by_path: dict[str, list[FileLine]] = {}
        for line in lines:
            if not isinstance(line, Opened):
                self._by_path.setdefault(line.path, []).append(line)

    def start(self, upload: Upload) -> None:
        """Begin anew, for this upload."""
        self._by_path = {}
        self.empty()
        self.write(Opened(upload.id))

    def finished(self, found: Content) -> Finished | None:
        """The file, if an earlier run has put all of it and nobody has touched it since."""
        mine = self._of(found)
        last = mine[-1] if mine else None
        same = isinstance(last, Finished) and last.state == found.state
        return last if same and isinstance(last, Finished) else None

    def begun(self, found: Content) -> bool:
        """Whether an earlier run began to put the file: it was changed, and needs no comparing."""
        return any(isinstance(each, Begun | Finished) for each in self._of(found))

    def tagged(self, found: Content) -> bytes | None:
        """The file's content tag, if an earlier run has made it and nobody has touched it since."""
        tagged = [each for each in self._of(found) if isinstance(each, Tagged)]
        same = bool(tagged) and tagged[-1].state == found.state
        return tagged[-1].content if same else None

    def tag(self, found: Content, content: bytes) -> None:
        """A file was read to be compared."""
        self.write(Tagged(found.path, found.state, content))

    def trail(self, found: Content) -> FileTrail:
        """Where the encryption of a file goes on, or begins."""
        begun: Begun | None = None
        transfer: str | None = None
        leaves: dict[int, bytes] = {}
        contents: dict[int, bytes] = {}
        for line in self._of(found):
            if isinstance(line, Begun):
                begun, transfer, leaves, contents = line, None, {}, {}
            elif isinstance(line, Sending):
                transfer = line.transfer
            elif isinstance(line, Leaves):
                leaves |= _pieces(line.start, line.leaves)
                contents |= _pieces(line.start, line.contents)
        if begun is None or begun.state != found.state or transfer is None:
            return self.fresh(found)
        return FileTrail(self, found, begun.seeds, begun.header, transfer, leaves, contents)

    def fresh(self, found: Content) -> FileTrail:
        """Begin a file's encryption, under names of its own."""
        seeds = (secrets.token_hex(16), secrets.token_hex(16))
        return FileTrail(self, found, seeds, None, None, {}, {})

    def _of(self, found: Content) -> list[FileLine]:
        return self._by_path.get(found.path, [])


class FileTrail:
    """`artifact.writer.Trail` and `ports.objects.Track` of one file, kept in the journal."""

    def __init__(
        self,
        journal: Journal,
        found: Content,
        seeds: tuple[str, str],
        header: bytes | None,
        transfer: str | None,
        leaves: dict[int, bytes],
        contents: dict[int, bytes],
    ) -> None:
        self._journal = journal
        self._found = found
        self.seeds = seeds
        self.header = header
        self.transfer = transfer
        self.leaves = leaves
        self.contents = contents
        self._known = frozenset(leaves)
        self._lock = threading.Lock()

    def begin(self, header: bytes) -> None:
        """See Trail."""
        if self.header is None:
            self.header = header
            state = self._found.state
            self._journal.write(Begun(self._found.path, state, self.seeds, header))

    def leaf(self, position: int, leaf: bytes, content: bytes) -> None:
        """See Trail."""
        with self._lock:
            self.leaves[position] = leaf
            self.contents[position] = content

    def has(self, piece: int) -> bool:
        """See Track."""
        return piece in self._known

    def begun(self, transfer: str) -> None:
        """See Track."""
        self.transfer = transfer
        self._journal.write(Sending(self._found.path, transfer))

    def sent(self, start: int, stop: int) -> None:
        """See Track."""
        with self._lock:
            leaves = b"".join(self.leaves[piece] for piece in range(start, stop))
            contents = b"".join(self.contents[piece] for piece in range(start, stop))
        self._journal.write(Leaves(self._found.path, start, leaves, contents))

    def finished(self, file: DraftFile, format: str, tensors: tuple[TensorEntry, ...]) -> None:
        """The file lies in the store whole."""
        state = self._found.state
        self._journal.write(Finished(self._found.path, state, file, format, tensors))


def open_journal(
    folder: Path | None, vault: str, reference: Reference, files: Sequence[Content]
) -> Journal | None:
    """The journal of a push of these files to this model, locked; None where there can't be one: no
    folder, one that can't be written, another process that pushes just this, or contents that no
    other process will find again."""
    if folder is None or not all(found.state for found in files):
        return None
    name = {
        "vault": vault,
        "model": f"{reference.tenant}/{reference.model}",
        "files": [[found.path, found.place, found.size] for found in files],
    }
    path = folder / (hashlib.sha256(canonical.dumps(name)).hexdigest()[:32] + ".journal")
    descriptor = lock_file(path)
    return None if descriptor is None else Journal(path, descriptor)


def _pieces(start: int, joined: bytes) -> dict[int, bytes]:
    """The hashes of consecutive pieces, by the pieces' numbers."""
    return {
        start + at // _LEAF: joined[at : at + _LEAF]
        for at in range(0, len(joined) - _LEAF + 1, _LEAF)
    }
