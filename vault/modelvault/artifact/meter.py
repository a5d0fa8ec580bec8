"""What loads have cost: bytes by where they came from, time by what it was spent on."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, Self

import msgspec

from modelvault.clock import steady_ns
from modelvault.ports.objects import ObjectReader

# A lease is asked for, its documents are verified and its keys opened, ciphertext is read, compared
# with its signed digests, written to a cache, decrypted.
Phase = Literal["lease", "verify", "read", "check", "keep", "decrypt"]


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """`seconds` by phase, summed over threads: with four of them, four seconds pass in one.

    `read_bytes` are of ciphertext, by source (`folder`, `object_store`, `cache`);
    `decrypted_bytes` of plaintext. What is read again counts again.
    """

    seconds: dict[str, float]
    read_bytes: dict[str, int]
    decrypted_bytes: int


_meters: weakref.WeakSet[Meter] = weakref.WeakSet()


class Meter:
    """Adds up, for itself and for the `whole` that it is a part of. Thread-safe."""

    def __init__(self, whole: Meter | None = None) -> None:
        _meters.add(self)
        self._whole = whole
        self._lock = threading.Lock()
        self._ns: dict[str, int] = {}
        self._read: dict[str, int] = {}
        self._decrypted = 0

    def read(self, source: str, size: int) -> None:
        """Bytes of ciphertext that came from `source`."""
        with self._lock:
            self._read[source] = self._read.get(source, 0) + size
        if self._whole is not None:
            self._whole.read(source, size)

    @contextmanager
    def timing(self, phase: Phase) -> Iterator[None]:
        """The time that the block takes, also where it fails."""
        begun = steady_ns()
        try:
            yield
        finally:
            self.add({phase: steady_ns() - begun}, 0)

    def add(self, ns: dict[Phase, int], decrypted: int) -> None:
        """All that one thread's block of work took, at once."""
        with self._lock:
            for phase, spent in ns.items():
                self._ns[phase] = self._ns.get(phase, 0) + spent
            self._decrypted += decrypted
        if self._whole is not None:
            self._whole.add(ns, decrypted)

    def unlock(self) -> None:
        """For a forked child, which has one thread."""
        self._lock = threading.Lock()

    def costs(self) -> Costs:
        """All so far."""
        with self._lock:
            return Costs(
                seconds={phase: ns / 1e9 for phase, ns in self._ns.items()},
                read_bytes=dict(self._read),
                decrypted_bytes=self._decrypted,
            )


def _unlock() -> None:
    """In a forked child: a lock that another thread of its parent held would never be let go."""
    for meter in list(_meters):
        meter.unlock()


os.register_at_fork(after_in_child=_unlock)


class Laps:
    """One thread's times within a block of work, told to the meter at its end: a segment takes a
    tenth of a millisecond, and a lock for each of its steps would be felt."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._ns: dict[Phase, int] = {}
        self._decrypted = 0
        self._last = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._meter.add(self._ns, self._decrypted)

    def start(self) -> None:
        """A lap begins."""
        self._last = steady_ns()

    def spent(self, phase: Phase) -> None:
        """A lap has ended, and the next one begins."""
        now = steady_ns()
        self._ns[phase] = self._ns.get(phase, 0) + now - self._last
        self._last = now

    def decrypted(self, size: int) -> None:
        """Bytes of plaintext."""
        self._decrypted += size


class Metered:
    """An `ObjectReader` whose bytes and waiting are told to a meter, under the name `source`."""

    def __init__(self, store: ObjectReader, source: str, meter: Meter) -> None:
        self._store = store
        self._source = source
        self._meter = meter

    def size(self, name: str) -> int:
        """See `ObjectReader`."""
        with self._meter.timing("read"):
            return self._store.size(name)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """See `ObjectReader`."""
        with self._meter.timing("read"):
            self._store.read_into(name, offset, buffer)
        self._meter.read(self._source, len(buffer))

    @contextmanager
    def stream(self, name: str, offset: int, size: int) -> Iterator[Callable[[memoryview], None]]:
        """See `ObjectReader`."""
        done = 0
        with self._store.stream(name, offset, size) as read, Laps(self._meter) as laps:

            def timed(buffer: memoryview) -> None:
                nonlocal done
                laps.start()
                read(buffer)
                laps.spent("read")
                done += len(buffer)

            try:
                yield timed
            finally:
                self._meter.read(self._source, done)
