"""The header of a GGUF file, read so strictly that no view can be made from a lie.

A file is the magic `GGUF`, version, counts, metadata, descriptions of tensors, and the tensors'
bytes, each beginning at a multiple of the alignment. Only little-endian files of version 2 and 3
are read. As in safetensors, tensors must cover the rest of the file: no overlap, no hole, nothing
behind them but padding. A header counts as hostile even after its bytes are authentic.
"""

from __future__ import annotations

import struct
from math import prod

import msgspec

from modelvault.errors import IntegrityError, InvalidRequest
from modelvault.weights.cursor import Cursor, Read
from modelvault.weights.ggml import BLOCKS, FILE_TYPES, TYPES
from modelvault.weights.safetensors import BITS, TensorInfo, short

MAGIC = b"GGUF"
SUFFIX = ".gguf"
MAX_HEADER = 100_000_000
MAX_NAME = 1024  # bytes of a tensor's name; the format itself allows 64
MAX_RANK = 4
MAX_METADATA = 1 << 16
MAX_TENSORS = 1 << 20
_MAX_KEY = (1 << 16) - 1
_MAX_BITS = 2**63 - 1
_VERSIONS = (2, 3)
_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 20

# Of metadata: how each type is written, by its number in the file.
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
_BOOL, _STRING, _ARRAY, _UINT32 = 7, 8, 9, 4


class ArrayValue(msgspec.Struct, frozen=True):
    """A list in the metadata, of which only the length is kept."""

    length: int


Value = bool | int | float | str | ArrayValue


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


def parse(read: Read, size: int) -> Header:
    """What the header of a file of `size` bytes says; `read(begin, end)` gives bytes of it.

    Raises IntegrityError (`bad_gguf`) naming the tensor or key and what is wrong with it,
    InvalidRequest (`unsupported_gguf`) for another version or byte order, or a type of tensor that
    isn't known: all before it was no lie.
    """
    cursor = Cursor(read, size, _lie, MAX_HEADER)
    if cursor.take(len(MAGIC)) != MAGIC:
        raise _lie("it doesn't begin with GGUF")
    version = _version(cursor.number(4))
    tensors, metadata = cursor.number(8), cursor.number(8)
    if tensors > MAX_TENSORS or metadata > MAX_METADATA:
        raise _lie(f"{tensors:,} tensors and {metadata:,} keys; the limits are "
                   f"{MAX_TENSORS:,} and {MAX_METADATA:,}")  # fmt: skip
    values = _metadata(cursor, metadata)
    alignment = _alignment(values)
    rows = [_row(cursor, alignment) for _ in range(tensors)]
    start = _padded(cursor.position, alignment)
    return Header(version, values, _placed(rows, start, size, alignment))


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
    raise _lie(f"there is no version {number}")


def _metadata(cursor: Cursor, count: int) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for _ in range(count):
        key = _text(cursor, "a key", _MAX_KEY)
        if key in values:
            raise _lie(f"the key {short(key)} stands twice")
        values[key] = _value(cursor, key)
    return values


def _value(cursor: Cursor, key: str) -> Value:
    kind = cursor.number(4)
    if kind == _STRING:
        return _text(cursor, short(key), MAX_HEADER)
    if kind == _ARRAY:
        return _array(cursor, key)
    return _scalar(cursor, key, kind)


def _scalar(cursor: Cursor, key: str, kind: int) -> Value:
    layout = _SCALARS.get(kind)
    if layout is None:
        raise _lie(f"key {short(key)}: no type {kind}")
    raw = cursor.take(struct.calcsize(layout))
    if kind == _BOOL and raw not in (b"\0", b"\1"):
        raise _lie(f"key {short(key)}: a truth value of {raw[0]}")
    value: bool | int | float = struct.unpack(layout, raw)[0]
    return value


def _array(cursor: Cursor, key: str) -> ArrayValue:
    kind, length = cursor.number(4), cursor.number(8)
    if kind == _STRING:
        # Each takes eight bytes at least: a length that can't be is refused before the loop.
        if length > (cursor.size - cursor.position) // 8:
            raise _lie(f"key {short(key)}: {length:,} texts in a file of {cursor.size:,} bytes")
        cursor.skip_texts(length)
    elif kind in _SCALARS:
        cursor.skip(struct.calcsize(_SCALARS[kind]) * length)
    else:
        raise _lie(f"key {short(key)}: no list of type {kind}")
    return ArrayValue(length)


def _text(cursor: Cursor, what: str, limit: int) -> str:
    length = cursor.number(8)
    if length > limit:
        raise _lie(f"{what} of {length:,} bytes; the limit is {limit:,}")
    try:
        return cursor.take(length).decode("utf-8")
    except UnicodeDecodeError:
        raise _lie(f"{what} isn't UTF-8") from None


def _alignment(values: dict[str, Value]) -> int:
    found = values.get("general.alignment", _ALIGNMENT)
    # llama.cpp takes any power of two. Beyond a MiB it could only hide bytes between tensors.
    if isinstance(found, bool) or not isinstance(found, int):
        raise _lie("general.alignment isn't a number")
    if not 1 <= found <= _MAX_ALIGNMENT or found & (found - 1):
        raise _lie(f"an alignment of {found}")
    return found


def _row(cursor: Cursor, alignment: int) -> TensorInfo:
    """A tensor with its offsets counted from the first tensor's place."""
    name = _text(cursor, "a tensor's name", MAX_NAME)
    rank = cursor.number(4)
    if rank > MAX_RANK:
        raise _lie(f"tensor {short(name)}: {rank} dimensions; the limit is {MAX_RANK}")
    shape = tuple(reversed([cursor.number(8) for _ in range(rank)]))
    kind, offset = cursor.number(4), cursor.number(8)
    dtype = TYPES.get(kind)
    if dtype is None:
        raise _unsupported(f"tensor {short(name)} is of type {kind}, which isn't known")
    if offset % alignment:
        raise _lie(f"tensor {short(name)}: its offset {offset:,} isn't aligned to {alignment}")
    return TensorInfo(name, dtype, shape, offset, offset + _bytes(name, dtype, shape))


def _bytes(name: str, dtype: str, shape: tuple[int, ...]) -> int:
    elements, width = BLOCKS.get(dtype) or (1, BITS[dtype] // 8)
    # As in safetensors, zeros can't hide a shape that no array library takes.
    if prod(extent or 1 for extent in shape) * width * 8 > _MAX_BITS:
        raise _lie(f"tensor {short(name)}: a shape beyond any memory")
    if (shape[-1] if shape else 1) % elements:
        raise _lie(f"tensor {short(name)}: rows of {list(shape)[-1:]} in blocks of {elements}")
    return prod(shape) // elements * width


def _placed(
    rows: list[TensorInfo], start: int, size: int, alignment: int
) -> tuple[TensorInfo, ...]:
    """The tensors, by their bytes, counted from the file's beginning, that cover it."""
    placed: dict[str, TensorInfo] = {}
    position = start
    for row in sorted(rows, key=lambda row: (row.begin, row.end)):
        if row.name in placed:
            raise _lie(f"tensor {short(row.name)} stands twice")
        begin, end = start + row.begin, start + row.end
        if begin != position:
            fault = "overlaps the one before" if begin < position else "leaves a hole before"
            raise _lie(f"tensor {short(row.name)} {fault}, at byte {row.begin:,}")
        if end > size:
            raise _lie(f"tensor {short(row.name)} ends behind the file's end")
        placed[row.name] = TensorInfo(row.name, row.dtype, row.shape, begin, end)
        position = _padded(end, alignment)
    if size > position:
        raise _lie(f"{size - position:,} bytes behind the last tensor")
    return tuple(placed.values())


def _padded(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _unsupported(what: str) -> InvalidRequest:
    return InvalidRequest(
        "unsupported_gguf",
        f"a GGUF file that can't be read here: {what}",
        "use path() with an engine that reads it, or convert it to little-endian GGUF 3",
    )


def _lie(what: str) -> IntegrityError:
    return IntegrityError(
        "bad_gguf",
        f"not a sound GGUF file: {what}",
        "write the file anew, for instance with llama.cpp, and push it as a new version",
    )
