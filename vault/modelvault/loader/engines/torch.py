"""torch tensors over the loader's memory. torch is imported when first asked for.

Types of less than a byte are packed, as safetensors packs them. F4 is torch's float4_e2m1fn_x2
where this torch has it: two elements in one, so the last extent is half of the file's. What torch
has no type for (F6_E2M3, F6_E3M2; F4 in an older torch) comes as its bytes: uint8, the last extent
being bytes of packed elements, or flat where a row doesn't fill whole bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

from modelvault.errors import InvalidRequest
from modelvault.weights.gguf import in_bytes
from modelvault.weights.safetensors import BITS, TensorInfo, one_of_each_type

_TORCH = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16",
    "F16": "float16", "BF16": "bfloat16", "U32": "uint32", "I32": "int32", "F32": "float32",
    "U64": "uint64", "I64": "int64", "F64": "float64", "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F4": "float4_e2m1fn_x2",
}  # fmt: skip


def check(tensors: Iterable[TensorInfo]) -> None:
    """That the installed torch can show all of these, before anything is decrypted.

    Raises InvalidRequest: `missing_extra` (no torch), `unsupported_dtype`.
    """
    for tensor in one_of_each_type(tensors):
        described(tensor)


def view(tensor: TensorInfo, memory: memoryview) -> Any:  # noqa: ANN401
    """A torch.Tensor over `memory`, the tensor's bytes, which must be writable: torch knows no
    read-only tensor. Nothing is copied; the tensor keeps the memory alive. Errors as `check`.
    """
    dtype, shape = described(tensor)
    if not memory:
        return library().empty(shape, dtype=dtype)
    return library().frombuffer(memory, dtype=dtype).reshape(shape)


def described(tensor: TensorInfo) -> tuple[Any, tuple[int, ...]]:
    """The dtype and shape in torch for a tensor of a file. Errors as `check`."""
    torch = library()
    tensor = in_bytes(tensor)
    bits = BITS[tensor.dtype]
    dtype = getattr(torch, _TORCH.get(tensor.dtype, ""), None)
    if bits < 8:
        return dtype or torch.uint8, _packed(tensor.shape, bits)
    if dtype is None:
        raise InvalidRequest(
            "unsupported_dtype",
            f"tensor {tensor.name!r} is {tensor.dtype}, which this torch has no type for",
            "take a newer torch, or read_bytes() of its file",
        )
    return dtype, tensor.shape


def other_device(device: object) -> Any:  # noqa: ANN401
    """A torch.device, None for the CPU. InvalidRequest (`no_device`) unless it can be used."""
    torch = library()
    try:
        found = torch.device(device)
        if found.type == "meta":
            raise ValueError
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, ValueError):
        raise InvalidRequest(
            "no_device",
            f"torch can't put tensors on {str(device)[:40]!r} here",
            "name another device, or install a torch that is built for it",
        ) from None
    return None if found.type == "cpu" else found


def library() -> Any:  # noqa: ANN401
    """The module torch. InvalidRequest (`missing_extra`)."""
    try:
        import torch
    except ImportError:
        raise InvalidRequest(
            "missing_extra",
            "this needs torch, which isn't installed",
            "pip install 'encrypted-model-vault[torch]', or use tensors() with numpy",
        ) from None
    return torch


def _packed(shape: tuple[int, ...], bits: int) -> tuple[int, ...]:
    """The extents in bytes."""
    if shape and shape[-1] * bits % 8 == 0:
        return (*shape[:-1], shape[-1] * bits // 8)
    return (prod(shape) * bits // 8,)
