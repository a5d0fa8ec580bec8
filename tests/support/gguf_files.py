"""GGUF files by hand, byte by byte, so that they can lie."""

from __future__ import annotations

import struct
from collections.abc import Sequence


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def key(name: str, kind: int, value: bytes) -> bytes:
    """A key with its value, of the type `kind`."""
    return text(name.encode()) + struct.pack("<I", kind) + value


def tensor(name: str, extents: Sequence[int], kind: int, offset: int) -> bytes:
    """A tensor's description; extents as the file has them, the fastest first."""
    return (
        text(name.encode())
        + struct.pack(f"<I{len(extents)}Q", len(extents), *extents)
        + struct.pack("<IQ", kind, offset)
    )


def file_of(
    metadata: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    body: int = 0,
    *,
    version: int = 3,
    keys: int | None = None,
    count: int | None = None,
    alignment: int = 32,
) -> bytes:
    """A file with `body` zeros of weights; `keys` and `count` say otherwise than there is."""
    head = b"GGUF" + struct.pack(
        "<IQQ",
        version,
        len(tensors) if count is None else count,
        len(metadata) if keys is None else keys,
    )
    head += b"".join([*metadata, *tensors])
    return head + bytes(-len(head) % alignment) + bytes(body)
