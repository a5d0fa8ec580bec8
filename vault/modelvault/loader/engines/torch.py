"""torch tensors over the loader's memory. torch is imported when first asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from modelvault.errors import InvalidRequest
from modelvault.weights.gguf import in_bytes
from modelvault.weights.safetensors import TensorInfo

_TORCH = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16",
    "F16": "float16", "BF16": "bfloat16", "U32": "uint32", "I32": "int32", "F32": "float32",
    "U64": "uint64", "I64": "int64", "F64": "float64", "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip


def check(tensors: Iterable[TensorInfo]) -> None:
    """That the installed torch can show all of these, before anything is decrypted.

    Raises InvalidRequest: `missing_extra` (no torch), `unsupported_dtype`.
    """
    torch = _torch()
    for tensor in tensors:
        _dtype(torch, in_bytes(tensor))


def view(tensor: TensorInfo, memory: memoryview) -> Any:  # noqa: ANN401
    """A torch.Tensor over `memory`, the tensor's bytes, which must be writable: torch knows no
    read-only tensor. Nothing is copied; the tensor keeps the memory alive. Errors as `check`.
    """
    torch = _torch()
    tensor = in_bytes(tensor)
    dtype = _dtype(torch, tensor)
    if not memory:
        return torch.empty(tensor.shape, dtype=dtype)
    return torch.frombuffer(memory, dtype=dtype).reshape(tensor.shape)


def _dtype(torch: Any, tensor: TensorInfo) -> Any:  # noqa: ANN401
    dtype = getattr(torch, _TORCH.get(tensor.dtype, ""), None)
    if dtype is None:
        raise InvalidRequest(
            "unsupported_dtype",
            f"tensor {tensor.name!r} is {tensor.dtype}, which this torch has no type for",
            "take a newer torch, or read_bytes() of its file",
        )
    return dtype


def _torch() -> Any:  # noqa: ANN401
    try:
        import torch
    except ImportError:
        raise InvalidRequest(
            "missing_extra",
            "state_dict() needs torch, which isn't installed",
            "pip install 'encrypted-model-vault[torch]', or use tensors() with numpy",
        ) from None
    return torch
