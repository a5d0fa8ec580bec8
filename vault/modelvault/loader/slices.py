"""Parts of tensors: only the segments that they lie in are read and decrypted."""

from __future__ import annotations

import operator
from collections.abc import Callable
from itertools import pairwise
from math import prod
from types import EllipsisType
from typing import Any

import msgspec
import numpy as np
from numpy.lib.stride_tricks import as_strided

from modelvault.errors import InvalidRequest
from modelvault.loader.lent import Lent
from modelvault.loader.memory import Region
from modelvault.loader.resident import Resident
from modelvault.loader.seam import Seam
from modelvault.loader.source import Fits
from modelvault.weights.safetensors import BITS, TensorInfo

_TAKES = "take numbers, slices with a positive step, and one `...`; the rest is the framework's"
_SHAPE = "get_shape() tells its extents"
_BLOCK = 32 << 20  # rows are taken out of so many bytes at once

Index = int | slice | EllipsisType | tuple[int | slice | EllipsisType, ...]


class OutOfRange(InvalidRequest, IndexError):
    """An index behind a tensor's end: IndexError too, since Python ends loops by it."""


class Extent(msgspec.Struct, frozen=True):
    """What of one dimension is wanted: `start` to `stop`; a single index loses its dimension."""

    start: int
    stop: int
    step: int = 1
    single: bool = False

    @property
    def length(self) -> int:
        """Of the range, steps not counted."""
        return self.stop - self.start


class TensorSlice:
    """As what safetensors' `get_slice` gives: `get_shape()`, `get_dtype()`, and parts by `[...]`.

    Nothing of the tensor is read before a part is asked for. Each part has memory of its own,
    guarded as the model's and wiped when the last reference to it goes. Thread-safe.
    """

    def __init__(
        self,
        info: TensorInfo,
        resident: Resident,
        lent: Lent,
        view: Callable[[TensorInfo, memoryview], Any],
        fits: Fits,
    ) -> None:
        self._info = info
        self._resident = resident
        self._lent = lent
        self._view = view
        self._fits = fits

    def get_shape(self) -> list[int]:
        """The extents in the file's header, in elements of `get_dtype()`."""
        return list(self._info.shape)

    def get_dtype(self) -> str:
        """The dtype as safetensors writes it: `F32`, `BF16`, ..."""
        return self._info.dtype

    def __getitem__(self, index: Index) -> Any:  # noqa: ANN401
        """Ints, slices with a positive step, and one `...`, as numpy and torch take them.

        Raises OutOfRange (`bad_slice`), InvalidRequest (`bad_slice`) for other indices and for
        parts that begin or end within a byte, and what `Model.tensor` raises.
        """
        extents = select(self._info.shape, index)
        part = _part(self._info, extents)
        self._fits(part.size)
        with self._lent.lend(self._resident.path, part.size) as region:
            memory = region.writable(0, part.size)
            _gather(self._resident, self._info, extents, memory)
            found = self._view(part, memory)
        steps = tuple(slice(None, None, one.step) for one in extents if not one.single)
        return found[steps] if any(one.step > 1 for one in steps) else found


def select(shape: tuple[int, ...], index: object) -> tuple[Extent, ...]:
    """An extent for each dimension. Errors as `TensorSlice.__getitem__`."""
    parts = index if isinstance(index, tuple) else (index,)
    dots = sum(part is Ellipsis for part in parts)
    if dots > 1:
        raise _bad("more than one `...`")
    if len(parts) - dots > len(shape):
        raise OutOfRange(
            "bad_slice", f"{len(parts) - dots} indices for shape {list(shape)}", _SHAPE
        )
    at = next((at for at, part in enumerate(parts) if part is Ellipsis), len(parts))
    whole = (slice(None),) * (len(shape) - len(parts) + dots)
    filled = (*parts[:at], *whole, *parts[at + 1 :])
    sizes = zip(filled, shape, strict=True)
    return tuple(_extent(part, size, at) for at, (part, size) in enumerate(sizes))


def _extent(part: object, size: int, dimension: int) -> Extent:
    if isinstance(part, slice):
        try:
            start, stop, step = part.indices(size)
        except (TypeError, ValueError):
            raise _bad("a slice is of whole numbers, its step not 0") from None
        if step < 0:
            raise _bad("steps go forward")
        # A step beyond the end is one to the end: torch computes with 64 bits.
        return Extent(start, max(start, stop), min(step, max(size, 1)))
    try:
        number = operator.index(part)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(part, bool):
        raise _bad(f"{type(part).__name__} in the place of a number, a slice or `...`")
    place = number + size if number < 0 else number
    if not 0 <= place < size:
        raise OutOfRange(
            "bad_slice", f"index {number} of dimension {dimension}, which has {size}", _SHAPE
        )
    return Extent(place, place + 1, single=True)


def _part(info: TensorInfo, extents: tuple[Extent, ...]) -> TensorInfo:
    """The part as a tensor of its own: its bytes begin at 0."""
    bits = BITS[info.dtype]
    whole = all(one == Extent(0, size) for one, size in zip(extents, info.shape, strict=True))
    if bits < 8 and not whole:
        last = extents[-1]
        edges = (last.start * bits, last.stop * bits, info.shape[-1] * bits)
        if any(edge % 8 for edge in edges) or last.step > 1 or last.single:
            raise _bad(f"{info.dtype} is packed: this part begins or ends within a byte")
    size = prod(one.length for one in extents) * bits // 8
    shape = tuple(one.length for one in extents if not one.single)
    return TensorInfo(info.name, info.dtype, shape, 0, size)


def _gather(
    resident: Resident, info: TensorInfo, extents: tuple[Extent, ...], out: memoryview
) -> None:
    """Write the part's bytes, which are runs of equal length in the file, one behind another."""
    starts, length = _runs(info, extents)
    if not out:
        return
    payload = resident.payload
    if len(starts) == 1 or np.diff(starts).min() - length >= 2 * payload:
        for at, start in enumerate(starts.tolist()):  # no two of them share a segment
            with out[at * length : (at + 1) * length] as run:
                resident.fill(run, start)
        return
    rows = np.frombuffer(out, "u1").reshape(len(starts), length)
    seam = Seam(resident)
    try:
        for begin, end in _blocks(starts, length, payload):
            _rows(seam, starts[begin:end], rows[begin:end])
    finally:
        seam.close()


def _runs(info: TensorInfo, extents: tuple[Extent, ...]) -> tuple[Any, int]:
    """Where the runs begin in the file (ascending), and the bytes of each."""
    bits = BITS[info.dtype]
    strides = [prod(info.shape[at + 1 :]) * bits for at in range(len(extents))]
    inner = len(extents)
    while inner and extents[inner - 1].length == info.shape[inner - 1]:
        inner -= 1
    # Dimensions from `inner` on are whole; the one before is a range: together one run.
    outer = max(inner - 1, 0)
    starts = np.array([info.begin], "i8")
    for extent, stride in zip(extents[:outer], strides[:outer], strict=True):
        steps = np.arange(extent.start, extent.stop, dtype="i8") * (stride // 8)
        starts = (starts[:, None] + steps).reshape(-1)
    if inner:
        starts = starts + extents[outer].start * strides[outer] // 8
    length = prod(one.length for one in extents[outer:]) * bits // 8
    return starts, length


def _blocks(starts: Any, length: int, payload: int) -> list[tuple[int, int]]:  # noqa: ANN401
    """Ranges of runs that are read together: at equal distances, with no segment between them
    that none of them needs, and no more than a block."""
    distances = np.diff(starts)
    unneeded = (starts[:-1] + length - 1) // payload + 1 < starts[1:] // payload
    breaks = np.flatnonzero(unneeded | (distances != distances.min())) + 1
    most = max(1, _BLOCK // int(distances.min()))
    edges = pairwise([0, *breaks.tolist(), len(starts)])
    return [(at, min(at + most, end)) for begin, end in edges for at in range(begin, end, most)]


def _rows(seam: Seam, starts: Any, rows: Any) -> None:  # noqa: ANN401
    """Fill `rows` with the runs that begin at `starts`, at equal distances."""
    begin, length = int(starts[0]), rows.shape[1]
    distance = int(starts[1]) - begin if len(starts) > 1 else length
    first, last = seam.cover(begin, int(starts[-1]) + length)
    block = Region(last - first)
    try:
        with block.writable(0, last - first) as out:
            seam.fill(first, out)
        whole = np.frombuffer(block.view(begin - first, last - first), "u1")
        rows[:] = as_strided(whole, rows.shape, (distance, 1), writeable=False)
        del whole
    finally:
        block.abandon()


def _bad(what: str) -> InvalidRequest:
    return InvalidRequest("bad_slice", f"not a part of a tensor: {what}", _TAKES)
