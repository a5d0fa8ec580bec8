"""The metadata of a GGUF file: typed values by key, of which lists are only measured."""

from __future__ import annotations

import struct

import msgspec

from modelvault.errors import IntegrityError
from modelvault.weights.cursor import Cursor
from modelvault.weights.safetensors import short

MAX_HEADER = 100_000_000
_MAX_KEY = (1 << 16) - 1

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


def metadata(cursor: Cursor, count: int) -> dict[str, Value]:
    """The next `count` keys with their values. Raises IntegrityError (`bad_gguf`)."""
    values: dict[str, Value] = {}
    for _ in range(count):
        key = text(cursor, "a key", _MAX_KEY)
        if key in values:
            raise lie(f"the key {short(key)} stands twice")
        values[key] = _value(cursor, key)
    return values


def _value(cursor: Cursor, key: str) -> Value:
    kind = cursor.number(4)
    if kind == _STRING:
        return text(cursor, short(key), MAX_HEADER)
    if kind == _ARRAY:
        return _array(cursor, key)
    return _scalar(cursor, key, kind)


def _scalar(cursor: Cursor, key: str, kind: int) -> Value:
    layout = _SCALARS.get(kind)
    if layout is None:
        raise lie(f"key {short(key)}: no type {kind}")
    raw = cursor.take(struct.calcsize(layout))
    if kind == _BOOL and raw not in (b"\0", b"\1"):
        raise lie(f"key {short(key)}: a truth value of {raw[0]}")
    value: bool | int | float = struct.unpack(layout, raw)[0]
    return value


def _array(cursor: Cursor, key: str) -> ArrayValue:
    kind, length = cursor.number(4), cursor.number(8)
    if kind == _STRING:
        # Each takes eight bytes at least: a length that can't be is refused before the loop.
        if length > (cursor.size - cursor.position) // 8:
            raise lie(f"key {short(key)}: {length:,} texts in a file of {cursor.size:,} bytes")
        cursor.skip_texts(length)
    elif kind in _SCALARS:
        cursor.skip(struct.calcsize(_SCALARS[kind]) * length)
    else:
        raise lie(f"key {short(key)}: no list of type {kind}")
    return ArrayValue(length)


def text(cursor: Cursor, what: str, limit: int) -> str:
    """The next text, of `limit` bytes at most; `what` it is stands in the error."""
    length = cursor.number(8)
    if length > limit:
        raise lie(f"{what} of {length:,} bytes; the limit is {limit:,}")
    try:
        return cursor.take(length).decode("utf-8")
    except UnicodeDecodeError:
        raise lie(f"{what} isn't UTF-8") from None


def lie(
    what: str,
    hint: str = "write the file anew, for instance with llama.cpp, and push it as a new version",
) -> IntegrityError:
    """What all lies of a header are told as."""
    return IntegrityError("bad_gguf", f"not a sound GGUF file: {what}", hint)
