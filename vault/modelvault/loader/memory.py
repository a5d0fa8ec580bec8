"""Memory for plaintext weights: guarded (`crypto.pages`), zeroed before it goes back.

A region is zeroed and unmapped at the moment when nothing refers to it any more, never under a
reader: a view (memoryview, numpy array, torch tensor, slices of these) holds its region alive, and
the region's finaliser does the wiping. So `close()` and `abandon()` only let go; they differ in
what they say about views that live on.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

from modelvault.crypto import pages, secret
from modelvault.crypto.pages import Pages
from modelvault.errors import Conflict, Unavailable

_BLOCK = 1 << 20
_ZEROS = bytes(_BLOCK)


class _Memory(Pages):
    """A mapping that zeroes what was written to it when the last reference to it goes.

    `touched` has a byte for each block of 1 MiB: blocks that were never written aren't wiped,
    since that would bring them into memory.
    """

    touched: bytearray
    holder: object

    def wipe(self) -> None:
        """Zero what was written to."""
        # In long runs: a call for each block would be felt.
        for begin, end in self._written():
            ctypes.memset(self.start + begin, 0, end - begin)

    def _written(self) -> Iterator[tuple[int, int]]:
        """The runs of bytes that were written to, by whole blocks."""
        start = self.touched.find(1)
        while start >= 0:
            stop = self.touched.find(0, start)
            stop = len(self.touched) if stop < 0 else stop
            yield start * _BLOCK, min(stop * _BLOCK, len(self))
            start = self.touched.find(1, stop)


class Region:
    """`size` bytes of zeroed anonymous memory. Threads may take views and write at once."""

    def __init__(self, size: int, holder: object = None) -> None:
        """`holder` lives at least as long as the memory does.

        Raises Unavailable (`insufficient_memory`) when the system doesn't give the memory.
        """
        self.size = size
        self._memory: _Memory | None = _map(max(size, 1))
        self._memory.holder = holder
        self._alive = weakref.ref(self._memory)

    @property
    def grain(self) -> int:
        """See `source.Memory`: what is edited needs no neighbours."""
        return 1

    def fill(self, begin: int, end: int, read: Callable[[memoryview], None]) -> None:
        """Have `read` write the bytes `begin` to `end`; they are wiped if it raises."""
        filled = False
        try:
            with self.writable(begin, end) as buffer:
                read(buffer)
            filled = True
        finally:
            if not filled:
                self.wipe(begin, end)

    def editable(self, begin: int, end: int) -> memoryview:
        """As `view`, but it may be written to, which every other view of this region shows."""
        return self.writable(begin, end)

    def writable(self, begin: int, end: int) -> memoryview:
        """The bytes `begin` to `end`, to be written. What was taken this way is wiped."""
        memory = self._held()
        if end > begin:
            blocks = slice(begin // _BLOCK, (end - 1) // _BLOCK + 1)
            memory.touched[blocks] = b"\1" * (blocks.stop - blocks.start)
        return memoryview(memory)[begin:end]

    def view(self, begin: int, end: int) -> memoryview:
        """The bytes `begin` to `end`, read-only and not copied. Keeps the region alive."""
        return memoryview(self._held())[begin:end].toreadonly()

    def wipe(self, begin: int, end: int) -> None:
        """Zero a part of it: for a write that failed half-way."""
        with self.writable(begin, end) as view:
            for offset in range(0, len(view), _BLOCK):
                length = min(_BLOCK, len(view) - offset)
                view[offset : offset + length] = _ZEROS[:length]

    def close(self) -> None:
        """Wipe and unmap. Doing it twice is fine.

        Raises Conflict (`views_alive`) while anything refers to the memory; the region then
        stays as it was, and a later close works.
        """
        abandoned = self._memory is None
        self._memory = None  # the last reference, if there are no views: the wipe happens now
        if self.alive:
            if not abandoned:
                self._memory = self._alive()
            raise Conflict(
                "views_alive",
                "decrypted memory is still in use",
                "drop the arrays, tensors and memoryviews taken from the model, then close again",
            )

    def abandon(self) -> None:
        """Let go: wiped and unmapped now, or when the last view dies. Nothing new can be taken."""
        self._memory = None

    @property
    def alive(self) -> bool:
        """Whether the memory is still there."""
        return self._alive() is not None

    def _held(self) -> _Memory:
        memory = self._memory
        if memory is None:
            raise Conflict("closed", "this memory was closed", "load the model again")
        if memory.absent:
            raise Conflict(
                "forked",
                "this memory stayed in the process that this one was forked from",
                "load the model in this process, or fork within `with modelvault.inherited():`",
            )
        return memory


def _map(size: int) -> _Memory:
    secret.reserve()  # keys come first where not all can be locked
    try:
        memory = pages.reserve(_Memory, size)
    except OSError:
        raise _too_large(size, None, "the system's limit on address space") from None
    memory.touched = bytearray((size - 1) // _BLOCK + 1)
    return memory


def check_fits(
    size: int, *, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> None:
    """Raise Unavailable (`insufficient_memory`) unless `size` bytes can be had now.

    Looks at the machine's available memory and at the limits of this process's control groups
    (v2 and v1) up to the root; swap doesn't count. Where the system tells nothing, nothing is
    refused.
    """
    rooms = [*_machine(proc), *_groups(proc, cgroups)]
    if rooms:
        room, limiter = min(rooms)
        if size > room:
            raise _too_large(size, max(room, 0), limiter)


def _too_large(size: int, room: int | None, limiter: str) -> Unavailable:
    free = "less" if room is None else _human(room)
    return Unavailable(
        "insufficient_memory",
        f"{_human(size)} of memory are needed and {free} can be had ({limiter})",
        "give the machine or the container more memory, end other programs, "
        "or load fewer files or single tensors",
        needed=size,
        available=room,
    )


def _machine(proc: Path) -> list[tuple[int, str]]:
    for line in _read(proc / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return [(int(line.split()[1]) * 1024, "memory available on this machine")]
    return []


def _groups(proc: Path, cgroups: Path) -> list[tuple[int, str]]:
    rooms = []
    for line in _read(proc / "self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            for root in (cgroups, cgroups / "unified"):
                rooms += _climb(root, path, ("memory.max", "memory.current", "inactive_file"))
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            rooms += _climb(cgroups / "memory", path, names)
    return rooms


def _climb(root: Path, path: str, names: tuple[str, str, str]) -> list[tuple[int, str]]:
    # A container may see its group's host path here and only its own group under the mount: the
    # folders that don't exist are passed over, and the mount's root is always looked at.
    own = root / path.lstrip("/")
    depth = len(own.parts) - len(root.parts)
    found = []
    for group in (own, *own.parents)[: depth + 1]:
        room = _room(group, *names)
        if room is not None:
            found.append((room, f"memory limit of the control group {group}"))
    return found


def _room(group: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    most, used = _read(group / limit).strip(), _read(group / usage).strip()
    if not most.isdigit() or not used.isdigit():  # "max", or not a group with a memory controller
        return None
    room = int(most) - int(used)
    for line in _read(group / "memory.stat").splitlines():
        key, _, value = line.partition(" ")
        if key == reclaimable:  # page cache that the kernel gives up before it kills
            room += int(value)
    return room


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def _human(size: int) -> str:
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << power:
            return f"{size / (1 << power):.2f} {unit}"
    return f"{size} bytes"
