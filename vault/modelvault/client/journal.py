"""What a push that was cut off leaves for the next one, in a file of the pusher's own.

It holds no secret: which upload it was, and of each file its state, its objects' names, the header
and the leaves of what the store has. The keys come from the broker again, for the same identity
alone. A journal that is broken, of other files or of an upload that is gone is no error: the push
just begins anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from modelvault import canonical
from modelvault.client.scan import Found
from modelvault.lease import DraftFile, Upload
from modelvault.manifest import TensorEntry
from modelvault.reference import Reference

T = TypeVar("T")

MAX_BYTES = 256 << 20
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


class Sending(msgspec.Struct, frozen=True, tag="sending"):
    """The transfer at the store that the file's pieces go to."""

    path: str
    transfer: str


class Leaves(msgspec.Struct, frozen=True, tag="sent"):
    """The leaves of pieces that the store has, from `start` on."""

    path: str
    start: int
    leaves: bytes


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """A file that lies in the store whole."""

    path: str
    state: tuple[int, ...]
    file: DraftFile
    format: str
    tensors: tuple[TensorEntry, ...]


Line = Opened | Begun | Sending | Leaves | Finished
_LINE = msgspec.json.Decoder(Line)


def state_of(found: Found) -> tuple[int, ...]:
    """What must be the same for a file to be the same: the change time too, which nobody can set
    back. Otherwise a version could be put together from two states of one file."""
    identity = found.identity
    return (
        identity.device, identity.inode, identity.size, identity.modified_ns, found.changed_ns,
    )  # fmt: skip


class Journal:
    """One push's file. Threads may write to it at once; other processes can't."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._lines: list[Line] = read_lines(descriptor, _LINE)

    @property
    def upload(self) -> str | None:
        """The upload to go on with."""
        first = self._lines[0] if self._lines else None
        return first.upload if isinstance(first, Opened) else None

    def start(self, upload: Upload) -> None:
        """Begin anew, for this upload."""
        with self._lock:
            self._lines = []
            os.ftruncate(self._descriptor, 0)
        self.write(Opened(upload.id))

    def finished(self, found: Found) -> Finished | None:
        """The file, if an earlier run has put all of it and nobody has touched it since."""
        mine = [each for each in self._lines if getattr(each, "path", None) == found.path]
        last = mine[-1] if mine else None
        same = isinstance(last, Finished) and last.state == state_of(found)
        return last if same and isinstance(last, Finished) else None

    def trail(self, found: Found) -> FileTrail:
        """Where the encryption of a file goes on, or begins."""
        begun: Begun | None = None
        transfer: str | None = None
        leaves: dict[int, bytes] = {}
        for line in self._lines:
            if getattr(line, "path", None) != found.path:
                continue
            if isinstance(line, Begun):
                begun, transfer, leaves = line, None, {}
            elif isinstance(line, Sending):
                transfer = line.transfer
            elif isinstance(line, Leaves):
                for number in range(len(line.leaves) // _LEAF):
                    leaf = line.leaves[number * _LEAF : (number + 1) * _LEAF]
                    leaves[line.start + number] = leaf
        if begun is None or begun.state != state_of(found) or transfer is None:
            return self.fresh(found)
        return FileTrail(self, found, begun.seeds, begun.header, transfer, leaves)

    def fresh(self, found: Found) -> FileTrail:
        """Begin a file's encryption, under names of its own."""
        seeds = (secrets.token_hex(16), secrets.token_hex(16))
        return FileTrail(self, found, seeds, None, None, {})

    def write(self, line: Line) -> None:
        """Add a line. A disk that takes no more is no reason to stop the push."""
        data = msgspec.json.encode(line) + b"\n"
        with self._lock, suppress(OSError):
            os.write(self._descriptor, data)

    def remove(self) -> None:
        """The push is over. Idempotent."""
        with suppress(OSError):
            self._path.unlink()
        self.close()

    def close(self) -> None:
        """Leave it for the next push. Idempotent."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._descriptor = -1


class FileTrail:
    """`artifact.writer.Trail` and `ports.objects.Track` of one file, kept in the journal."""

    def __init__(
        self,
        journal: Journal,
        found: Found,
        seeds: tuple[str, str],
        header: bytes | None,
        transfer: str | None,
        leaves: dict[int, bytes],
    ) -> None:
        self._journal = journal
        self._found = found
        self.seeds = seeds
        self.header = header
        self.transfer = transfer
        self.leaves = leaves
        self._known = frozenset(leaves)
        self._lock = threading.Lock()

    def begin(self, header: bytes) -> None:
        """See Trail."""
        if self.header is None:
            self.header = header
            state = state_of(self._found)
            self._journal.write(Begun(self._found.path, state, self.seeds, header))

    def leaf(self, position: int, leaf: bytes) -> None:
        """See Trail."""
        with self._lock:
            self.leaves[position] = leaf

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
        self._journal.write(Leaves(self._found.path, start, leaves))

    def finished(self, file: DraftFile, format: str, tensors: tuple[TensorEntry, ...]) -> None:
        """The file lies in the store whole."""
        state = state_of(self._found)
        self._journal.write(Finished(self._found.path, state, file, format, tensors))


def open_journal(
    folder: Path | None, vault: str, reference: Reference, files: Sequence[Found]
) -> Journal | None:
    """The journal of a push of these files to this model, locked; None where there can't be one: no
    folder, one that can't be written, or another process that pushes just this."""
    if folder is None:
        return None
    name = {
        "vault": vault,
        "model": f"{reference.tenant}/{reference.model}",
        "files": [[found.path, str(found.source), found.size] for found in files],
    }
    path = folder / (hashlib.sha256(canonical.dumps(name)).hexdigest()[:32] + ".journal")
    descriptor = lock_file(path)
    return None if descriptor is None else Journal(path, descriptor)


def lock_file(path: Path) -> int | None:
    """A private file to append to, locked; None where it can't be had or another has it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def read_lines(descriptor: int, decoder: msgspec.json.Decoder[T]) -> list[T]:
    """The lines up to the first that isn't whole: a process may have died while it wrote. What
    follows them is cut off, so that new lines don't stand behind something broken."""
    lines: list[T] = []
    whole = 0
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        while data := file.readline(MAX_BYTES - whole):
            try:
                if not data.endswith(b"\n"):
                    break
                lines.append(decoder.decode(data))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                break
            whole += len(data)
    os.ftruncate(descriptor, whole)
    return lines
