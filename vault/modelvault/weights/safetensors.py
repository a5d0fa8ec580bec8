"""The header of a safetensors file, read so strictly that no view can be made from a lie.

A file is 8 bytes (little-endian length of the header), the header (a JSON object, which may be
padded with spaces), and the tensors' bytes, which must cover the rest exactly: no hole, no
overlap, nothing behind them. Nothing here is in the signed part of a version by itself, so a
header counts as hostile even after its bytes are authentic.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from modelvault import canonical
from modelvault.errors import IntegrityError, InvalidRequest
from modelvault.manifest import Count
from modelvault.weights import mistaken

LENGTH_BYTES = 8
MAX_HEADER = 100_000_000
MAX_RANK = 64
_MAX_BITS = 2**63 - 1
_METADATA = "__metadata__"
TIED = "modelvault.tied"  # in the metadata: further names of tensors, as JSON text

# Bits of one element: the list of safetensors 0.8.
BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


class TensorInfo(msgspec.Struct, frozen=True, gc=False):
    """A tensor: bytes `begin` to `end` (not included) of the file, C order, little-endian."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.begin


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    dtype: Annotated[str, Meta(max_length=32)]
    shape: Annotated[tuple[Count, ...], Meta(max_length=MAX_RANK)]
    data_offsets: tuple[Count, Count]


_ROWS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ROW = msgspec.json.Decoder(_Row)
_MAP = msgspec.json.Decoder(dict[str, str])


def header_size(head: bytes, file_size: int) -> int:
    """Bytes from the file's beginning to the first tensor; `head` is the file's first 8 bytes.

    Raises IntegrityError (`bad_safetensors`) when there can be no such header.
    """
    length = int.from_bytes(head[:LENGTH_BYTES], "little")
    if len(head) < LENGTH_BYTES or length > MAX_HEADER:
        other = mistaken.kind(head[:LENGTH_BYTES])
        if other:
            raise _lie(f"it is {other}", mistaken.HINTS.get(other, mistaken.HINT))
        if len(head) < LENGTH_BYTES:
            raise _lie(f"{file_size} bytes are too few for a header")
        raise _lie(f"a header of {length:,} bytes; the limit is {MAX_HEADER:,}")
    if LENGTH_BYTES + length > file_size:
        raise _lie(f"a header of {length:,} bytes in a file of {file_size:,}")
    return LENGTH_BYTES + length


def parse(header: bytes, file_size: int) -> tuple[TensorInfo, ...]:
    """The tensors of a file of `file_size` bytes, in the order of their bytes; behind them further
    names of some, where one tensor was saved under several.

    `header` is the file's beginning up to the first tensor, `header_size()` bytes.
    Raises IntegrityError (`bad_safetensors`) naming the tensor and what is wrong with it.
    """
    start = header_size(header, file_size)
    if len(header) != start:
        raise _lie(f"{len(header):,} bytes of header where its length field says {start:,}")
    text = header[LENGTH_BYTES:]
    rows, metadata = _plain_rows(text) or _strict_rows(text)
    tied = metadata.get(TIED, "")
    tensors = [_tensor(name, row, start) for name, row in rows.items()]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    _check_cover(tensors, start, file_size)
    return (*tensors, *_tied(tied, tensors)) if tied else tuple(tensors)


def one_of_each_type(tensors: Iterable[TensorInfo]) -> Iterable[TensorInfo]:
    """For what depends on a tensor's dtype alone: files have thousands of tensors, of few types."""
    found: dict[str, TensorInfo] = {}
    for tensor in tensors:
        found.setdefault(tensor.dtype, tensor)
    return found.values()


def _plain_rows(text: bytes) -> tuple[dict[str, _Row], dict[str, str]] | None:
    """The rows and the metadata of a header as nearly all are, in a third of the time; None for one
    that is to be looked at more closely.

    msgspec is as strict as `canonical`, but for names that stand twice: of these it takes the last.
    Each name has a colon behind it, so if there are as many colons as names were found, no name
    stands twice. (A colon within a text, or an escaped quote, needs the closer look.)
    """
    if text[:1] != b"{" or b"\\" in text:
        return None
    try:
        raw = _ROWS.decode(text)
        named = len(raw)
        metadata = _MAP.decode(raw.pop(_METADATA, b"{}"))
        rows = {name: _ROW.decode(row) for name, row in raw.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    names = named + len(metadata) + len(rows) * len(_Row.__struct_fields__)
    return (rows, metadata) if text.count(b":") == names else None


def _strict_rows(text: bytes) -> tuple[dict[str, _Row], dict[str, str]]:
    """The same of any header, or what is wrong with it."""
    rows = _object(text)
    metadata = rows.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _lie(f"{_METADATA} isn't a map of text to text")
    return {name: _row(name, row) for name, row in rows.items()}, metadata


def _object(text: bytes) -> dict[str, Any]:
    if text[:1] != b"{":
        raise _lie("the header isn't a JSON object")
    try:
        value = canonical.loads(text, MAX_HEADER)
    except InvalidRequest as refused:
        raise _lie(f"the header is {refused.message}") from None
    return dict(value)


def _tied(text: str, tensors: list[TensorInfo]) -> list[TensorInfo]:
    """Further names, each of a tensor that the file has, and no two of one name."""
    known = {tensor.name: tensor for tensor in tensors}
    names = _object(text.encode())
    for name, kept in names.items():
        if name in known or not isinstance(kept, str) or kept not in known:
            raise _lie(f"tensor {short(name)} is tied to one that isn't there, or is one itself")
    return [msgspec.structs.replace(known[kept], name=name) for name, kept in names.items()]


def _row(name: str, value: object) -> _Row:
    try:
        return msgspec.convert(value, _Row, strict=True)
    except msgspec.ValidationError as refused:
        raise _lie(f"tensor {short(name)}: {_plain(str(refused))}") from None


def _tensor(name: str, row: _Row, start: int) -> TensorInfo:
    bits = BITS.get(row.dtype)
    if bits is None:
        raise _lie(f"tensor {short(name)}: no dtype {row.dtype!r}")
    elements = prod(row.shape)
    # Zeros are left out, so that [0, 2^53, 2^53] can't hide a shape no array library takes.
    if (elements or prod(extent or 1 for extent in row.shape)) * bits > _MAX_BITS:
        raise _lie(f"tensor {short(name)}: a shape beyond any memory")
    wanted, rest = divmod(elements * bits, 8)
    begin, end = row.data_offsets
    if rest:
        raise _lie(f"tensor {short(name)}: it ends within a byte")
    if end - begin != wanted:
        raise _lie(
            f"tensor {short(name)}: {row.dtype} {list(row.shape)} takes {wanted} bytes, "
            f"its offsets {begin} to {end} hold {end - begin}"
        )
    return TensorInfo(name, row.dtype, row.shape, start + begin, start + end)


def _check_cover(tensors: list[TensorInfo], start: int, file_size: int) -> None:
    position = start
    for tensor in tensors:
        if tensor.begin != position:
            fault = "overlaps the one before" if tensor.begin < position else "leaves a hole before"
            raise _lie(f"tensor {short(tensor.name)} {fault}, at byte {tensor.begin - start}")
        if tensor.end > file_size:
            raise _lie(f"tensor {short(tensor.name)} ends behind the file's end")
        position = tensor.end
    if position != file_size:
        raise _lie(f"{file_size - position:,} bytes behind the last tensor")


def _plain(text: str) -> str:
    """`text` on one line: it may hold a field's name out of the header."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:300])


def short(name: str) -> str:
    """A name as messages show it: quoted, and not at any length."""
    return repr(name if len(name) <= 80 else name[:80] + "...")


def _lie(
    what: str, hint: str = "write the file anew with safetensors and push it as a new version"
) -> IntegrityError:
    return IntegrityError("bad_safetensors", f"not a sound safetensors file: {what}", hint)
