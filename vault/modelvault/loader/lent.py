"""Memory that is handed out apart from the files' own: by streams and slices."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from modelvault.loader.memory import Region
from modelvault.loader.source import Gate


class Lent:
    """Regions, each of which lives as long as what was made of it. Thread-safe."""

    def __init__(self, gate: Gate, holder: object = None) -> None:
        """`holder` is kept alive by all of them."""
        self._gate = gate
        self._holder = holder
        self._regions: list[tuple[str, Region]] = []
        self._lock = threading.Lock()

    @contextmanager
    def lend(self, path: str, size: int) -> Iterator[Region]:
        """A region of `size` bytes, to be filled from the file at `path` and to take views of:
        afterwards these alone keep it alive.

        Raises what `Region` raises; and at the end what the gate says, so that nothing is handed
        out which a close that went on meanwhile hasn't seen.
        """
        region = Region(size, self._holder)
        try:
            yield region
            with self._lock:
                self._gate.check()
                self._regions = [*self._living(), (path, region)]
        finally:
            region.abandon()

    @property
    def forked(self) -> bool:
        """See `Gate.forked`."""
        return self._gate.forked

    def check(self) -> None:
        """Raises what the gate says when nothing may be had any more."""
        self._gate.check()

    def alive(self) -> list[str]:
        """The paths of what is still in use."""
        with self._lock:
            return [path for path, _ in self._living()]

    def _living(self) -> Iterator[tuple[str, Region]]:
        return ((path, region) for path, region in self._regions if region.alive)
