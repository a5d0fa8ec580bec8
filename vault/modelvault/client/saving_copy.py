"""The copy that a save in the background needs: training goes on while the copy is encrypted."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from modelvault.artifact.parallel import run_blocks
from modelvault.client.content import Content
from modelvault.client.saving_contents import CopiedFile, WeightsFile
from modelvault.errors import InvalidRequest, Unavailable
from modelvault.loader.memory import Region, check_fits

_BLOCK = 8 << 20


class Copy:
    """The contents of a version in guarded memory: kept out of core dumps, wiped at the end."""

    def __init__(self, contents: Sequence[Content], most: int | None, threads: int) -> None:
        """Copies the weights, and returns when that is done. `most` is in bytes.

        Raises Unavailable (`insufficient_memory`) before a byte is copied: they are more than
        `most`, or than the machine or the container has left. InvalidRequest (`bad_max_copy`).
        """
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 0):
            raise InvalidRequest(
                "bad_max_copy", f"max_copy is {most!r}", "give it in bytes: 8 * 2**30"
            )
        weights = [each for each in contents if isinstance(each, WeightsFile)]
        self.size = sum(each.size for each in weights)
        if most is not None and self.size > most:
            raise Unavailable(
                "insufficient_memory",
                f"the copy for a save in the background takes {self.size:,} bytes; max_copy "
                f"allows {most:,}",
                "raise max_copy, or use save(), which needs no copy while training holds still",
                needed=self.size,
                available=most,
            )
        check_fits(self.size)
        self._regions: list[Region] = []
        copied: dict[str, Content] = {}
        try:
            for each in weights:
                copied[each.path] = self._copied(each, threads)
        except BaseException:
            self.wipe()
            raise
        self.contents = tuple(copied.get(each.path, each) for each in contents)

    def wipe(self) -> None:
        """Zero the copy and give its memory back. Idempotent."""
        for region in self._regions:
            region.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.wipe()

    def _copied(self, content: WeightsFile, threads: int) -> CopiedFile:
        region = Region(content.size)
        self._regions.append(region)
        with content.open() as reading:

            def copy(start: int, stop: int) -> None:
                begin, end = start * _BLOCK, min(stop * _BLOCK, content.size)
                region.fill(begin, end, lambda part: reading.read_into(begin, part))

            run_blocks(copy, -(-content.size // _BLOCK), 1, threads)
            reading.check()
        return CopiedFile(content.path, content.size, reading.format(), region)
