"""Neighbouring pieces of an object put together into requests of a useful size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import msgspec

from modelvault.upload import MAX_PARTS

PART_BYTES = 8 << 20  # S3 takes no parts under 5 MiB but the last


class Group(msgspec.Struct, frozen=True):
    """Pieces `start` to `stop`, `size` bytes in all."""

    start: int
    stop: int
    size: int

    def fill(
        self, sizes: Sequence[int], fill: Callable[[int, memoryview], None], buffer: memoryview
    ) -> None:
        """Fill `buffer`, which is `size` bytes long, piece by piece."""
        at = 0
        for piece in range(self.start, self.stop):
            fill(piece, buffer[at : at + sizes[piece]])
            at += sizes[piece]


def group(sizes: Sequence[int], least: int = PART_BYTES) -> tuple[Group, ...]:
    """Groups of at least `least` bytes each, but the last; one at least, and at most 10,000.

    An object so large that it would take more is put in larger groups.
    """
    least = max(least, -(-sum(sizes) // (MAX_PARTS - 1)))
    places = list(accumulate(sizes, initial=0))
    groups: list[Group] = []
    start = 0
    for stop in range(1, len(sizes) + 1):
        if places[stop] - places[start] >= least:
            groups.append(Group(start, stop, places[stop] - places[start]))
            start = stop
    if start < len(sizes) or not groups:
        groups.append(Group(start, len(sizes), places[-1] - places[start]))
    return tuple(groups)
