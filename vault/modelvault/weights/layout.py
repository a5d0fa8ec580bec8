"""A safetensors file that is about to be written: its header, and where each tensor's bytes go.

Tensors stand by the size of their elements, largest first, and then by name: so each begins at a
multiple of its element's size, as the header is padded to 8 bytes. `safetensors.parse` takes it
back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelvault.errors import InvalidRequest
from modelvault.weights.safetensors import BITS, LENGTH_BYTES, MAX_HEADER, TIED

_METADATA = "__metadata__"
_ALIGNED = 8


class Row(msgspec.Struct, frozen=True):
    """A tensor to be written: `dtype` as safetensors names it, `size` in bytes, in C order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int


class Layout(msgspec.Struct, frozen=True):
    """A file: what stands before the tensors, their first bytes' places, and the file's size."""

    header: bytes
    rows: tuple[Row, ...]
    begins: tuple[int, ...]
    size: int


def lay_out(
    rows: Sequence[Row], tied: Mapping[str, str], metadata: Mapping[str, str] | None = None
) -> Layout:
    """The layout of a file of these tensors. `tied` are further names of some of them.

    Raises InvalidRequest: `bad_tensor_name`, `too_many_tensors`.
    """
    ordered = sorted(rows, key=lambda row: (-BITS[row.dtype], row.name))
    told = dict(metadata or {})
    if tied:
        told[TIED] = msgspec.json.encode(dict(sorted(tied.items()))).decode()
    table: dict[str, Any] = {_METADATA: told} if told else {}
    position = 0
    begins = []
    for row in ordered:
        begins.append(position)
        end = position + row.size
        table[row.name] = {"dtype": row.dtype, "shape": row.shape, "data_offsets": (position, end)}
        position = end
    text = msgspec.json.encode(table)
    text += b" " * (-len(text) % _ALIGNED)
    if len(text) > MAX_HEADER:
        raise InvalidRequest(
            "too_many_tensors",
            f"{len(rows):,} tensors take a header of {len(text):,} bytes; the limit is "
            f"{MAX_HEADER:,}",
            "name a max_shard_size, or put small tensors together",
        )
    header = len(text).to_bytes(LENGTH_BYTES, "little") + text
    return Layout(
        header=header,
        rows=tuple(ordered),
        begins=tuple(len(header) + begin for begin in begins),
        size=len(header) + position,
    )


def check_name(name: object) -> str:
    """A tensor's name. Raises InvalidRequest (`bad_tensor_name`)."""
    if not isinstance(name, str):
        raise _bad_name(repr(type(name).__name__), "names are texts")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise _bad_name(ascii(name[:80]), "it isn't Unicode text") from None
    if name in {"", _METADATA}:
        raise _bad_name(repr(name), "safetensors keeps this name for itself")
    return str(name)


def _bad_name(what: str, why: str) -> InvalidRequest:
    return InvalidRequest("bad_tensor_name", f"no tensor can be called {what}: {why}", "rename it")
