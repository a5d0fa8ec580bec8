"""The header of a GGUF file, read so strictly that no view can be made from a lie.

A file is the magic `GGUF`, version, counts, metadata, descriptions of tensors, and the tensors'
bytes, each beginning at a multiple of the alignment. Only little-endian files of version 2 and 3
are read. As in safetensors, tensors must cover the rest of the file: no overlap, no hole, nothing
behind them but padding. A header counts as hostile even after its bytes are authentic.
"""

from __future__ import annotations

from math import prod

import msgspec

from modelvault.errors import InvalidRequest
from modelvault.weights import mistaken
from modelvault.weights.cursor import Cursor, Read
from modelvault.weights.ggml import BLOCKS, FILE_TYPES, TYPES
from modelvault.weights.gguf_metadata import MAX_HEADER, Value, lie, metadata, text
from modelvault.weights.safetensors import BITS, TensorInfo, short

MAGIC = b"GGUF"
SUFFIX = ".gguf"
MAX_NAME = 1024  # bytes of a tensor's name; the format itself allows 64
MAX_RANK = 4
MAX_METADATA = 1 << 16
MAX_TENSORS = 1 << 20
_MAX_BITS = 2**63 - 1
_VERSIONS = (2, 3)
_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 20


class Header(msgspec.Struct, frozen=True):
    """Metadata by key, and the tensors in the order of their bytes, C order (last axis fastest).

    `dtype` is ggml's name of the type; quantised ones are in `ggml.BLOCKS`.
    """

    version: int
    metadata: dict[str, Value]
    tensors: tuple[TensorInfo, ...]

    @property
    def architecture(self) -> str:
        """What llama.cpp calls the kind of model (`llama`, `gemma3`, ...); empty if not said."""
        found = self.metadata.get("general.architecture")
        return found if isinstance(found, str) else ""

    @property
    def quantisation(self) -> str:
        """What the file says of itself (`Q4_K_M`); where it doesn't, the type that holds most
        bytes (`Q4_K`, `F16`); empty without tensors."""
        told = self.metadata.get("general.file_type")
        if isinstance(told, int) and told in FILE_TYPES:
            return FILE_TYPES[told]
        held: dict[str, int] = {}
        for tensor in self.tensors:
            held[tensor.dtype] = held.get(tensor.dtype, 0) + tensor.size
        return max(held, key=lambda dtype: held[dtype], default="")


class _Row(msgspec.Struct, frozen=True):
    """A tensor as it is described; `begin` counts from the first tensor's place."""

    name: str
    kind: int
    shape: tuple[int, ...]
    begin: int


class _Told(msgspec.Struct, frozen=True):
    """What a header says of itself; the tensors' bytes begin at `start`."""

    version: int
    metadata: dict[str, Value]
    alignment: int
    rows: tuple[_Row, ...]
    start: int


def parse(read: Read, size: int) -> Header:
    """What the header of a file of `size` bytes says; `read(begin, end)` gives bytes of it.

    Raises IntegrityError (`bad_gguf`) naming the tensor or key and what is wrong with it,
    InvalidRequest (`unsupported_gguf`) for another version or byte order, or a type of tensor that
    isn't known: all before it was no lie (`check` looks at the rest).
    """
    told = _told(read, size)
    for row in told.rows:
        if row.kind not in TYPES:
            raise _unknown(row)
    return Header(told.version, told.metadata, _placed(told, size))


def check(read: Read, size: int) -> None:
    """Look for lies, also in a file with tensors of types that aren't known here: of these all but
    the length of their bytes.

    Raises IntegrityError (`bad_gguf`), InvalidRequest (`unsupported_gguf`) for another version or
    byte order alone.
    """
    _placed(_told(read, size), size)


def _told(read: Read, size: int) -> _Told:
    cursor = Cursor(read, size, lie, MAX_HEADER)
    if cursor.take(len(MAGIC)) != MAGIC:
        other = mistaken.kind(read(0, min(size, mistaken.SAMPLE)))
        raise lie(
            f"it is {other}" if other else "it doesn't begin with GGUF",
            mistaken.HINTS.get(other, mistaken.HINT),
        )
    version = _version(cursor.number(4))
    tensors, keys = cursor.number(8), cursor.number(8)
    if tensors > MAX_TENSORS or keys > MAX_METADATA:
        raise lie(f"{tensors:,} tensors and {keys:,} keys; the limits are "
                   f"{MAX_TENSORS:,} and {MAX_METADATA:,}")  # fmt: skip
    values = metadata(cursor, keys)
    alignment = _alignment(values)
    rows = tuple(_row(cursor, alignment) for _ in range(tensors))
    return _Told(version, values, alignment, rows, _padded(cursor.position, alignment))


def is_quantised(tensor: TensorInfo) -> bool:
    """Whether its numbers lie in ggml's blocks, which no array library has a type for."""
    return tensor.dtype in BLOCKS


def in_bytes(tensor: TensorInfo) -> TensorInfo:
    """The tensor as it can be shown: a quantised one as U8, its last axis in bytes of blocks."""
    if tensor.dtype not in BLOCKS:
        return tensor
    elements, width = BLOCKS[tensor.dtype]
    *outer, last = tensor.shape
    shape = (*outer, last // elements * width)
    return TensorInfo(tensor.name, "U8", shape, tensor.begin, tensor.end)


def _version(number: int) -> int:
    if number in _VERSIONS:
        return number
    if number & 0xFFFF == 0 and number:
        raise _unsupported("it is big-endian")
    if number > max(_VERSIONS) or number == 1:
        raise _unsupported(f"it is of version {number}; 2 and 3 are known")
    raise lie(f"there is no version {number}")


def _alignment(values: dict[str, Value]) -> int:
    found = values.get("general.alignment", _ALIGNMENT)
    # llama.cpp takes any power of two. Beyond a MiB it could only hide bytes between tensors.
    if isinstance(found, bool) or not isinstance(found, int):
        raise lie("general.alignment isn't a number")
    if not 1 <= found <= _MAX_ALIGNMENT or found & (found - 1):
        raise lie(f"an alignment of {found}")
    return found


def _row(cursor: Cursor, alignment: int) -> _Row:
    name = text(cursor, "a tensor's name", MAX_NAME)
    rank = cursor.number(4)
    if rank > MAX_RANK:
        raise lie(f"tensor {short(name)}: {rank} dimensions; the limit is {MAX_RANK}")
    shape = tuple(reversed([cursor.number(8) for _ in range(rank)]))
    kind, offset = cursor.number(4), cursor.number(8)
    if offset % alignment:
        raise lie(f"tensor {short(name)}: its offset {offset:,} isn't aligned to {alignment}")
    return _Row(name, kind, shape, offset)


def _bytes(name: str, dtype: str, shape: tuple[int, ...]) -> int:
    elements, width = BLOCKS.get(dtype) or (1, BITS[dtype] // 8)
    _check_shape(name, shape, width * 8)
    if (shape[-1] if shape else 1) % elements:
        raise lie(f"tensor {short(name)}: rows of {list(shape)[-1:]} in blocks of {elements}")
    return prod(shape) // elements * width


def _check_shape(name: str, shape: tuple[int, ...], bits: int) -> None:
    # As in safetensors, zeros can't hide a shape that no array library takes.
    if prod(extent or 1 for extent in shape) * bits > _MAX_BITS:
        raise lie(f"tensor {short(name)}: a shape beyond any memory")


def _placed(told: _Told, size: int) -> tuple[TensorInfo, ...]:
    """The tensors, by their bytes, counted from the file's beginning, that cover it."""
    placed: dict[str, TensorInfo] = {}
    position = told.start
    for tensor in _ordered(told, size):
        if tensor.name in placed:
            raise lie(f"tensor {short(tensor.name)} stands twice")
        if tensor.begin != position:
            fault = "overlaps the one before" if tensor.begin < position else "leaves a hole before"
            raise lie(f"tensor {short(tensor.name)} {fault}, at byte {tensor.begin:,}")
        if tensor.end > size:
            raise lie(f"tensor {short(tensor.name)} ends behind the file's end")
        placed[tensor.name] = tensor
        position = _padded(tensor.end, told.alignment)
    if size > position:
        raise lie(f"{size - position:,} bytes behind the last tensor")
    return tuple(placed.values())


def _ordered(told: _Told, size: int) -> list[TensorInfo]:
    """By their bytes. One of an unknown type reaches to the next one, or to the file's end."""
    rows = sorted(told.rows, key=lambda row: (row.begin, prod(row.shape) > 0))
    behind = [row.begin + told.start for row in rows[1:]] + [size]
    return sorted(
        (_tensor(row, told.start, end) for row, end in zip(rows, behind, strict=False)),
        key=lambda tensor: (tensor.begin, tensor.end),
    )


def _tensor(row: _Row, start: int, next_begin: int) -> TensorInfo:
    begin = start + row.begin
    dtype = TYPES.get(row.kind)
    _check_shape(row.name, row.shape, 1)
    if dtype is not None:
        end = begin + _bytes(row.name, dtype, row.shape)
    elif not prod(row.shape):
        end = begin
    elif next_begin > begin:
        end = next_begin
    else:
        raise lie(f"tensor {short(row.name)} has no bytes of its own, at byte {begin:,}")
    return TensorInfo(row.name, dtype or "", row.shape, begin, end)


def _padded(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _unknown(row: _Row) -> InvalidRequest:
    return _unsupported(f"tensor {short(row.name)} is of type {row.kind}, which isn't known")


def _unsupported(what: str) -> InvalidRequest:
    return InvalidRequest(
        "unsupported_gguf",
        f"a GGUF file that can't be read here: {what}",
        "use path() with an engine that reads it, or convert it to little-endian GGUF 3",
    )
