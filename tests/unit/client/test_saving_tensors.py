"""Tensors of every kind and place, read in any pieces, are what they are in one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelvault.client.saving_tensors import tensor_of
from modelvault.errors import InvalidRequest
from support.engines import need

ml_dtypes = need("ml_dtypes")
torch = need("torch")

BASE = torch.arange(2 * 3 * 4, dtype=torch.float32).reshape(2, 3, 4)
COMPLEX = torch.complex(BASE[0], BASE[1])

TORCH: dict[str, tuple[Any, str]] = {
    "contiguous": (BASE, "F32"),
    "transposed": (BASE.transpose(0, 2), "F32"),
    "every other": (BASE[:, ::2, 1:], "F32"),
    "one column": (BASE[:, :, 2], "F32"),
    "expanded": (torch.ones(3, 1).expand(3, 5), "F32"),
    "a parameter": (torch.nn.Parameter(torch.ones(2, 2)), "F32"),
    "a scalar": (torch.tensor(3.25), "F32"),
    "empty": (torch.empty(0, 7), "F32"),
    "bfloat16": (BASE.bfloat16().transpose(1, 2), "BF16"),
    "float16": (BASE.half(), "F16"),
    "float64": (BASE.double()[1], "F64"),
    "e4m3": (BASE.to(torch.float8_e4m3fn).transpose(0, 1), "F8_E4M3"),
    "e5m2": (BASE.to(torch.float8_e5m2), "F8_E5M2"),
    "e8m0": (torch.ones(4, 4).to(torch.float8_e8m0fnu).T, "F8_E8M0"),
    "bool": ((BASE > 7).transpose(0, 1), "BOOL"),
    "int8": (BASE.to(torch.int8), "I8"),
    "uint16": (BASE.to(torch.uint16).transpose(1, 2), "U16"),
    "int64": (torch.arange(9)[::2], "I64"),
    "complex": (COMPLEX, "C64"),
    "conjugated": (COMPLEX.conj(), "C64"),
    "conjugated and turned": (COMPLEX.conj().T, "C64"),
    "negated": (COMPLEX.conj().imag, "F32"),
    "NaN and infinities": (torch.tensor([[float("nan"), float("inf")], [-0.0, 1.0]]).T, "F32"),
}
NUMPY: dict[str, tuple[Any, str]] = {
    "contiguous": (BASE.numpy(), "F32"),
    "Fortran's order": (np.asfortranarray(BASE.numpy()), "F32"),
    "backwards": (np.arange(12, dtype="i4").reshape(3, 4)[::-1, ::-2], "I32"),
    "big-endian": (np.arange(6, dtype=">i2").reshape(2, 3), "I16"),
    "big-endian and turned": (np.arange(6, dtype=">f8").reshape(2, 3).T, "F64"),
    "a scalar": (np.array(2.5), "F64"),
    "a number": (np.float32(2.5), "F32"),
    "empty": (np.empty((3, 0), "u1"), "U8"),
    "read-only": (np.frombuffer(b"12345678", "u1"), "U8"),
    "bfloat16": (np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3).T, "BF16"),
    "e4m3": (np.arange(6).astype(ml_dtypes.float8_e4m3fn), "F8_E4M3"),
    "complex": (COMPLEX.numpy(), "C64"),
    "bool": (np.array([True, False]), "BOOL"),
}


def torch_bytes(value: Any) -> bytes:
    plain = value.detach().clone(memory_format=torch.contiguous_format)
    plain = plain.resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def numpy_bytes(value: Any) -> bytes:
    array = np.asarray(value)
    return array.astype(array.dtype.newbyteorder("<")).tobytes(order="C")


CASES = [
    *(pytest.param(value, dtype, torch_bytes(value), id=f"torch: {name}")
      for name, (value, dtype) in TORCH.items()),
    *(pytest.param(value, dtype, numpy_bytes(value), id=f"numpy: {name}")
      for name, (value, dtype) in NUMPY.items()),
]  # fmt: skip


@pytest.mark.parametrize(("value", "dtype", "expected"), CASES)
def test_in_pieces_of_any_size(value: Any, dtype: str, expected: bytes) -> None:
    tensor = tensor_of("t", value)
    assert (tensor.row.dtype, tensor.row.shape) == (dtype, tuple(value.shape))
    assert tensor.row.size == len(expected)
    for piece in (1, 3, 16, 17, 1000):
        out = bytearray(len(expected))
        for at in range(0, len(out), piece):
            with memoryview(out)[at : at + piece] as view:
                tensor.copy(at, view)
        assert out == expected, piece


def test_packed_halves_of_bytes_count_as_elements() -> None:
    packed = torch.arange(8, dtype=torch.uint8).reshape(2, 4).view(torch.float4_e2m1fn_x2)
    tensor = tensor_of("t", packed)
    assert (tensor.row.dtype, tensor.row.shape, tensor.row.size) == ("F4", (2, 8), 8)
    out = bytearray(8)
    tensor.copy(0, memoryview(out))
    assert out == bytes(range(8))


def freed(value: torch.Tensor, left: int = 0) -> torch.Tensor:
    """As sharded training leaves tensors whose parts were gathered and let go of again."""
    value.untyped_storage().resize_(left)
    return value


def test_memory_that_isnt_quite_a_tensors_own() -> None:
    """Its storage may be shared, longer, or just long enough."""
    whole = torch.arange(12.0).reshape(3, 4)
    for part in (whole, whole[2:], whole.T, whole[:, 1:2], whole[:1].expand(5, 4), whole[:0]):
        tensor = tensor_of("t", part)
        out = bytearray(tensor.row.size)
        tensor.copy(0, memoryview(out))
        assert out == part.contiguous().numpy().tobytes()


def test_memory_that_is_freed_meanwhile_counts_as_changed() -> None:
    value = torch.zeros(3)
    tensor = tensor_of("t", value)
    before = tensor.stamp()
    freed(value)
    assert tensor.stamp() != before


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (3, "not_a_tensor"),
        ([1.0], "not_a_tensor"),
        (None, "not_a_tensor"),
        ({"w": BASE}, "not_a_tensor"),
        (torch.float32, "not_a_tensor"),
        (COMPLEX.to(torch.complex128), "unsupported_dtype"),
        (np.zeros(2, "c16"), "unsupported_dtype"),
        (np.array(["a"]), "unsupported_dtype"),
        (np.array([object()]), "unsupported_dtype"),
        (np.zeros(2, "M8[s]"), "unsupported_dtype"),
        (torch.eye(2).to_sparse(), "unsupported_tensor"),
        (np.ma.masked_array([1.0, 2.0], [False, True]), "unsupported_tensor"),
        (torch.empty(2, device="meta"), "unsupported_tensor"),
        (torch.nn.LazyLinear(2).weight, "unsupported_tensor"),
        (freed(torch.ones(2, 3)), "unsupported_tensor"),
        (freed(torch.ones(6)[4:], 16), "unsupported_tensor"),
        (freed(torch.ones(2, 3).T, 20), "unsupported_tensor"),
    ],
)
def test_what_cant_be_saved(value: object, code: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        tensor_of("layer.w", value)
    assert refused.value.code == code
    assert "layer.w" in refused.value.message
    assert refused.value.hint


def test_one_memory_seen_alike_is_one_tensor() -> None:
    same, twin = tensor_of("a", BASE), tensor_of("b", BASE.view(BASE.shape))
    assert same.known == twin.known
    others = [BASE.clone(), BASE[:1], BASE.reshape(6, 4), BASE.view(torch.int32), BASE.numpy()]
    assert all(tensor_of("c", other).known != same.known for other in others)


def test_changes_are_counted_where_torch_counts() -> None:
    value = torch.zeros(3)
    tensor = tensor_of("t", value)
    before = tensor.stamp()
    value[0] = 1
    assert tensor.stamp() != before
    with torch.inference_mode():
        assert tensor_of("t", torch.zeros(3)).stamp() is None
    assert tensor_of("t", np.zeros(3)).stamp() is None


def test_what_is_saved_is_what_is_loaded() -> None:
    """The types that go in are those that come out, in both frameworks."""
    from modelvault.client import saving_numpy, saving_torch
    from modelvault.loader.engines import numpy as numpy_engine
    from modelvault.loader.engines import torch as torch_engine

    loads = {name: dtype for dtype, name in torch_engine._TORCH.items()}
    assert {**loads, "float4_e2m1fn_x2": "F4"} == saving_torch.NAMES
    numbers = {name.removeprefix("<"): dtype for dtype, name in numpy_engine._NUMPY.items()}
    assert numbers.pop("?") == saving_numpy._NAMES["b1"]
    assert {**numbers, "b1": "BOOL"} == saving_numpy._NAMES
    further = {name: dtype for dtype, name in numpy_engine._ML_DTYPES.items()}
    assert further == saving_numpy._ML_NAMES
