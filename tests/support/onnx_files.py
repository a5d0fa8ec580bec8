"""ONNX models as protocol buffers by hand, so that they can lie."""

from __future__ import annotations

from modelvault.weights.protobuf import field


def entry(key: str, value: str | bytes) -> bytes:
    """One entry of a tensor's external data."""
    raw = value.encode() if isinstance(value, str) else value
    return field(13, field(1, key.encode()) + field(2, raw))


def external(location: str | bytes, **more: object) -> bytes:
    """A tensor that lies elsewhere."""
    entries = entry("location", location)
    entries += b"".join(entry(key, str(value)) for key, value in more.items())
    return field(1, 2) + field(2, 1) + field(8, b"w") + entries + field(14, 1)


def inline(raw: bytes) -> bytes:
    """A tensor that lies within the model."""
    return field(1, len(raw)) + field(2, 2) + field(8, b"v") + field(9, raw)


def graph_of(*tensors: bytes) -> bytes:
    return b"".join(field(5, tensor) for tensor in tensors)


def model_of(graph: bytes) -> bytes:
    return field(1, 8) + field(7, graph)
