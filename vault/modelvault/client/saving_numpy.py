"""numpy arrays that are saved. Imported only where there is one."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelvault.client.saving_tensors import Tensor, unsupported_dtype, unsupported_tensor
from modelvault.weights.layout import Row

_NAMES = {
    "b1": "BOOL", "u1": "U8", "i1": "I8", "u2": "U16", "i2": "I16", "f2": "F16", "u4": "U32",
    "i4": "I32", "f4": "F32", "u8": "U64", "i8": "I64", "f8": "F64", "c8": "C64",
}  # fmt: skip
_ML_NAMES = {
    "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0", "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
}  # fmt: skip


def tensor(name: str, value: Any) -> Tensor:  # noqa: ANN401
    """Errors as `tensor_of`."""
    if isinstance(value, np.ma.MaskedArray):
        raise unsupported_tensor(
            name, "is a masked array", "save what it is made of: its .data and its .mask"
        )
    array = np.asarray(value)
    dtype = _NAMES.get(array.dtype.str[1:]) or _ML_NAMES.get(array.dtype.name)
    if dtype is None:
        raise unsupported_dtype(name, array.dtype)
    shape = tuple(array.shape)
    place = array.__array_interface__["data"][0]
    known = (place, array.dtype.str, dtype, shape, array.strides)
    if array.flags.c_contiguous:
        array = array.reshape(-1)
    return Tensor(Row(name, dtype, shape, array.nbytes), array, _Numpy(), known, array.itemsize)


class _Numpy:
    """See Engine."""

    def flat(self, array: np.ndarray[Any, Any]) -> memoryview | None:
        little = array.dtype.newbyteorder("<") == array.dtype
        if not little or not array.flags.c_contiguous or not array.size:
            return None
        return array.reshape(-1).view(np.uint8).data

    def copy(self, array: np.ndarray[Any, Any], out: memoryview) -> None:
        target = np.frombuffer(out, array.dtype.newbyteorder("<")).reshape(array.shape)
        target[...] = array
