"""numpy arrays over the loader's memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from modelvault.errors import InvalidRequest
from modelvault.weights.gguf import in_bytes
from modelvault.weights.safetensors import TensorInfo, one_of_each_type

Array = np.ndarray[Any, np.dtype[Any]]

_NUMPY = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "F16": "<f2",
    "U32": "<u4", "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8",
    "C64": "<c8",
}  # fmt: skip
_ML_DTYPES = {
    "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip


def check(tensors: Iterable[TensorInfo]) -> None:
    """That numpy can show all of these here, before anything is decrypted.

    Raises InvalidRequest: `missing_extra` (ml_dtypes isn't installed), `unsupported_dtype`.
    """
    for tensor in one_of_each_type(tensors):
        _dtype(in_bytes(tensor))


def view(tensor: TensorInfo, memory: memoryview) -> Array:
    """A read-only array over `memory`, the tensor's bytes; nothing is copied.

    A tensor in one of ggml's quantised types is shown as rows of uint8. Errors as `check`.
    """
    tensor = in_bytes(tensor)
    dtype = _dtype(tensor)
    if not memory:
        array = np.empty(tensor.shape, dtype)
        array.flags.writeable = False
        return array
    # np.ndarray(buffer=) would be one call, but what it gives can be made writable.
    return np.frombuffer(memory, dtype).reshape(tensor.shape)


def _dtype(tensor: TensorInfo) -> np.dtype[Any]:
    if tensor.dtype in _NUMPY:
        return np.dtype(_NUMPY[tensor.dtype])
    if tensor.dtype in _ML_DTYPES:
        types = _ml_dtypes()
        if types is None:
            raise InvalidRequest(
                "missing_extra",
                f"tensor {tensor.name!r} is {tensor.dtype}, which numpy alone doesn't know",
                "pip install 'encrypted-model-vault[fp8]', or use state_dict() with torch",
            )
        dtype: np.dtype[Any] = np.dtype(getattr(types, _ML_DTYPES[tensor.dtype]))
        return dtype
    raise InvalidRequest(
        "unsupported_dtype",
        f"tensor {tensor.name!r} is {tensor.dtype}: its elements are smaller than a byte, "
        "so there is no numpy array of it",
        "take the bytes: read_bytes() of its file, at the offsets that tensor_infos() gives",
    )


def _ml_dtypes() -> Any:  # noqa: ANN401
    try:
        import ml_dtypes
    except ImportError:
        return None
    return ml_dtypes
