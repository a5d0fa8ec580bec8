"""The index of a distributed checkpoint: which part of which tensor lies in which file.

    checkpoint.json   {"schema": 1, "tensors": {...}, "values": {...}, "paths": {...}}

Strict JSON beside the safetensors files; what isn't a tensor stands in it as a plain value. Its
size is fixed before the values are known, so it may end in spaces.
"""

from __future__ import annotations

from math import prod
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from modelvault import canonical
from modelvault.errors import InvalidRequest
from modelvault.manifest import Count
from modelvault.weights.plain import bad_checkpoint
from modelvault.weights.safetensors import BITS, MAX_RANK

FILE = "checkpoint.json"
MAX_BYTES = 256 << 20

Extents = Annotated[tuple[Count, ...], Meta(max_length=MAX_RANK)]


class Chunk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A box of a tensor, `sizes` large and beginning at `offsets`: the tensor `name` of `file`."""

    offsets: Extents
    sizes: Extents
    file: str
    name: str


class Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor in its parts; `dtype` as safetensors names it."""

    dtype: str
    size: Extents
    chunks: tuple[Chunk, ...]


class Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A checkpoint: tensors and plain values by their flat names, and the keys on the way to each
    in the nested state (`weights.plain`)."""

    schema: int
    tensors: dict[str, Stored]
    values: dict[str, Any]
    paths: dict[str, Any]


def write(index: Index) -> bytes:
    """As JSON text."""
    return msgspec.json.encode(index)


def pad(text: bytes, size: int) -> bytes:
    """`text` made `size` bytes long. Raises InvalidRequest (`values_too_large`)."""
    if len(text) > size:
        raise InvalidRequest(
            "values_too_large",
            f"what isn't a tensor in this state takes {len(text) - size:,} bytes more than was "
            "set aside for it",
            "raise max_values, or make tensors of what is large",
        )
    return text + b" " * (size - len(text))


def read(text: bytes | memoryview) -> Index:
    """Raises IntegrityError (`bad_checkpoint`) for one that contradicts itself."""
    try:
        index = msgspec.convert(canonical.loads(text, MAX_BYTES), Index, strict=True)
    except (InvalidRequest, msgspec.ValidationError):
        raise bad_checkpoint(f"{FILE} isn't an index as this library writes it") from None
    if index.schema != 1:
        raise bad_checkpoint(f"{FILE} has the schema {index.schema}; this program knows 1")
    if index.tensors.keys() & index.values.keys():
        raise bad_checkpoint(f"{FILE} names something both a tensor and a value")
    for stored in index.tensors.values():
        _check(stored)
    return index


def _check(stored: Stored) -> None:
    if stored.dtype not in BITS:
        raise bad_checkpoint(f"{FILE} names a dtype {stored.dtype[:40]!r}")
    seen = set()
    for chunk in stored.chunks:
        if not len(chunk.offsets) == len(chunk.sizes) == len(stored.size):
            raise bad_checkpoint(f"{FILE} has a chunk of another rank than its tensor")
        for begin, length, extent in zip(chunk.offsets, chunk.sizes, stored.size, strict=True):
            if begin + length > extent:
                raise bad_checkpoint(f"{FILE} has a chunk that ends behind its tensor")
        if chunk.offsets in seen:
            raise bad_checkpoint(f"{FILE} has two chunks at one place")
        seen.add(chunk.offsets)
    # What no chunk holds would keep the values that it had before the load.
    if sum(prod(chunk.sizes) for chunk in stored.chunks) != prod(stored.size):
        raise bad_checkpoint(f"{FILE} has a tensor of which a part is missing, or stands twice")
