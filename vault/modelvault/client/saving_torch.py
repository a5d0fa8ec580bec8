"""torch tensors that are saved. Imported only where there is one."""

from __future__ import annotations

from typing import Any

import torch

from modelvault.client.saving_tensors import Tensor, unsupported_dtype, unsupported_tensor
from modelvault.weights.layout import Row

NAMES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16",
    "float16": "F16", "bfloat16": "BF16", "uint32": "U32", "int32": "I32", "float32": "F32",
    "uint64": "U64", "int64": "I64", "float64": "F64", "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float4_e2m1fn_x2": "F4",
}  # fmt: skip
# Elements are moved as whole numbers of their size: not every type can be copied by every kernel.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def tensor(name: str, value: Any) -> Tensor:  # noqa: ANN401
    """Errors as `tensor_of`. A tensor on a device is read once what was queued there is done."""
    _check(name, value)
    dtype = NAMES.get(str(value.dtype).removeprefix("torch."))
    if dtype is None:
        raise unsupported_dtype(name, value.dtype)
    shape = tuple(value.shape)
    if dtype == "F4":  # torch counts bytes of two elements each, safetensors counts elements
        if not shape:
            raise unsupported_dtype(name, value.dtype)
        shape = (*shape[:-1], 2 * shape[-1])
    known = (value.data_ptr(), dtype, shape, value.stride(), str(value.device), value.is_conj(),
             value.is_neg())  # fmt: skip
    array = value.detach()
    if not array.is_complex() and not array.is_neg():
        array = array.view(_BITS[array.element_size()])
    if array.is_contiguous() and not array.is_conj() and not array.is_neg():
        array = array.reshape(-1)
    if array.device.type != "cpu":
        _settle(array.device)
    size = array.numel() * array.element_size()
    return Tensor(Row(name, dtype, shape, size), array, _Torch(), known, array.element_size())


class _Torch:
    """See Engine."""

    def flat(self, array: torch.Tensor) -> memoryview | None:
        if array.device.type != "cpu" or not array.is_contiguous() or array.is_conj():
            return None
        if array.is_neg() or not array.numel():
            return None
        return array.reshape(-1).view(torch.uint8).numpy().data

    def copy(self, array: torch.Tensor, out: memoryview) -> None:
        target = torch.frombuffer(out, dtype=array.dtype).reshape(array.shape)
        target.copy_(array)


def _settle(device: torch.device) -> None:
    """Wait for what was queued on a device: it is read by threads that don't know its streams."""
    used = torch.accelerator.current_accelerator()
    if used is not None and used.type == device.type:
        torch.accelerator.synchronize(device)


def _check(name: str, value: Any) -> None:  # noqa: ANN401
    if torch.nn.parameter.is_lazy(value):
        raise unsupported_tensor(name, "has no shape yet", "run the model once, then save it")
    if hasattr(value, "to_local") and hasattr(value, "placements"):
        raise unsupported_tensor(
            name,
            "is a DTensor: this process has a part of it",
            "save it with torch.distributed.checkpoint and "
            "modelvault.integrations.distributed_checkpoint.VaultWriter",
        )
    if type(value).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        raise unsupported_tensor(
            name,
            f"is a {type(value).__name__}, which holds other tensors",
            "save the tensors that it is made of",
        )
    if value.layout is not torch.strided or value.is_quantized or value.is_nested:
        raise unsupported_tensor(
            name, "is sparse, quantized or nested", "save the dense tensors that it is made of"
        )
    if value.device.type == "meta":
        raise unsupported_tensor(name, "is on the device meta: it has no data", "load it first")
    if value.numel() and (not value.data_ptr() or value.untyped_storage().nbytes() < _reach(value)):
        # Its bytes would be whatever lies there by now, and all such tensors would pass for one.
        raise unsupported_tensor(
            name,
            "has no memory behind it: its storage was freed, as sharded training does",
            "gather the whole state first (FSDP: a full state dict), and save that",
        )


def _reach(value: Any) -> int:  # noqa: ANN401
    """Bytes of its storage up to the end of its last element."""
    last = sum((size - 1) * step for size, step in zip(value.shape, value.stride(), strict=True))
    return int((value.storage_offset() + last + 1) * value.element_size())
