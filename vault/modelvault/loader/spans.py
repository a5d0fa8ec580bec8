"""Which bytes of a version are read together when tensors are streamed. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from modelvault.weights.index import Located
from modelvault.weights.safetensors import TensorInfo

# Tensors that weren't asked for are read along up to here: about a segment, which would have to be
# decrypted for its neighbours anyway.
_GAP = 1 << 20


class Span(msgspec.Struct, frozen=True):
    """Neighbours in one file: bytes `begin` to `end` of it, the tensors in the order of them."""

    path: str
    begin: int
    end: int
    tensors: tuple[TensorInfo, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.begin


def spans(
    located: Iterable[Located], limit: int | None = None, first: int | None = None
) -> list[Span]:
    """All the tensors, file by file and in the order of their bytes, so that each file is read from
    front to back. No span of several tensors is longer than `limit` bytes; of the file that comes
    first the first one no longer than `first`, the next than twice that, and so on: who waits for
    the first tensor waits for little else.
    """
    files: dict[str, list[TensorInfo]] = {}
    for path, info in located:
        files.setdefault(path, []).append(info)
    limits = _limits(limit, first)
    return [
        Span(path, group[0].begin, max(info.end for info in group), tuple(group))
        for path, infos in files.items()
        for group in _groups(sorted(infos, key=lambda info: (info.begin, info.end)), limits)
    ]


def _limits(limit: int | None, first: int | None) -> Iterator[int | None]:
    """What each span in turn may have, without an end."""
    while first is not None and (limit is None or first < limit):
        yield first
        first *= 2
    while True:
        yield limit


def _groups(infos: list[TensorInfo], limits: Iterator[int | None]) -> Iterator[list[TensorInfo]]:
    group: list[TensorInfo] = []
    limit = next(limits)
    for info in infos:
        if group:
            far = info.begin - group[-1].end > _GAP
            long = limit is not None and info.end - group[0].begin > limit
            if far or long:
                yield group
                group, limit = [], next(limits)
        group.append(info)
    if group:
        yield group
