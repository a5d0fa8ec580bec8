from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from modelvault.errors import Conflict, InvalidRequest
from modelvault.loader.engines import numpy as numpy_engine
from modelvault.loader.engines import torch as torch_engine
from modelvault.weights.safetensors import BITS, TensorInfo
from support.engines import need
from support.loading import Version

ARRAYS = {"a": np.arange(6, dtype="f4").reshape(2, 3), "e": np.zeros((0, 2), "i8")}


def bfloat16_file() -> bytes:
    header = b'{"x":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    return len(header).to_bytes(8, "little") + header + b"\x80\x3f\0\x40"


def half_byte_file() -> bytes:
    header = b'{"x":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}'
    return len(header).to_bytes(8, "little") + header + b"\0"


@pytest.mark.parametrize("dtype", sorted(dtype for dtype, bits in BITS.items() if bits >= 8))
def test_every_whole_byte_dtype_has_an_array_of_its_size(dtype: str) -> None:
    size = BITS[dtype] // 8 * 2
    array = numpy_engine.view(TensorInfo("x", dtype, (2,), 0, size), memoryview(bytes(size)))
    assert array.nbytes == size
    empty = numpy_engine.view(TensorInfo("x", dtype, (0,), 0, 0), memoryview(b""))
    assert empty.dtype == array.dtype
    assert not empty.flags.writeable


def test_without_ml_dtypes_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    version = Version({"m.safetensors": bfloat16_file(), "n.safetensors": save(ARRAYS)})
    with version.model() as model:
        for use in (model.tensors, lambda: model.tensor("x")):
            with pytest.raises(InvalidRequest) as caught:
                use()
            assert caught.value.code == "missing_extra"
            assert "encrypted-model-vault[fp8]" in caught.value.hint
            assert "'x' is BF16" in caught.value.message
        assert model.tensor("a").shape == (2, 3)


def test_parts_of_bytes_have_no_array() -> None:
    with Version({"m.safetensors": half_byte_file()}).model() as model:
        with pytest.raises(InvalidRequest) as caught:
            model.tensors()
        assert caught.value.code == "unsupported_dtype"
        assert "read_bytes()" in caught.value.hint
        info = model.tensor_infos()["x"]
        assert len(model.read_bytes("m.safetensors")[info.begin : info.end]) == 1


class Tensor:
    """As much of torch.Tensor as the glue touches: holds its buffer's owner alive."""

    def __init__(self, buffer: object, dtype: str, shape: tuple[int, ...] | None = None) -> None:
        self.buffer = buffer
        self.dtype = dtype
        self.shape = shape

    def reshape(self, shape: tuple[int, ...]) -> Tensor:
        return Tensor(self.buffer, self.dtype, shape)


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    def frombuffer(buffer: memoryview, *, dtype: str) -> Tensor:
        assert not buffer.readonly  # torch would warn
        assert buffer
        return Tensor(buffer, dtype)

    fake = types.ModuleType("torch")
    fake.frombuffer = frombuffer  # type: ignore[attr-defined]
    fake.empty = lambda shape, *, dtype: Tensor(None, dtype, shape)  # type: ignore[attr-defined]
    for name in ("float32", "int64", "bfloat16", "uint8"):
        setattr(fake, name, "torch." + name)
    monkeypatch.setitem(sys.modules, "torch", fake)
    return fake


def test_torch_shares_the_memory(torch: types.ModuleType) -> None:
    version = Version({"m.safetensors": save(ARRAYS)})
    model = version.model()
    state = model.state_dict()
    assert {name: (t.dtype, t.shape) for name, t in state.items()} == {
        "a": ("torch.float32", (2, 3)),
        "e": ("torch.int64", (0, 2)),
    }
    state["a"].buffer[:4] = np.float32(7).tobytes()
    assert model.tensors()["a"][0, 0] == 7
    with pytest.raises(Conflict, match="views of"):
        model.close()
    del state
    model.close()


def test_torch_needs_no_ml_dtypes(torch: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with Version({"m.safetensors": bfloat16_file()}).model() as model:
        assert model.state_dict()["x"].dtype == "torch.bfloat16"


def test_types_that_this_torch_lacks(torch: types.ModuleType) -> None:
    with pytest.raises(InvalidRequest) as caught:
        torch_engine.check([TensorInfo("x", "F64", (2,), 0, 16)])  # not in this fake
    assert caught.value.code == "unsupported_dtype"


@pytest.mark.parametrize(
    ("dtype", "shape", "size", "seen"),
    [
        ("F4", (3, 4), 6, (3, 2)),
        ("F6_E2M3", (3, 4), 9, (3, 3)),
        ("F6_E3M2", (2, 2), 3, (3,)),  # no row fills whole bytes
        ("F4", (), 0, (0,)),
    ],
)
def test_parts_of_bytes_come_packed(
    torch: types.ModuleType, dtype: str, shape: tuple[int, ...], size: int, seen: tuple[int, ...]
) -> None:
    tensor = TensorInfo("x", dtype, shape, 0, size)
    assert torch_engine.described(tensor) == ("torch.uint8", seen)


def test_without_torch_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    version = Version({"m.safetensors": save(ARRAYS)})
    with version.model() as model, pytest.raises(InvalidRequest) as caught:
        model.state_dict()
    assert caught.value.code == "missing_extra"
    assert "encrypted-model-vault[torch]" in caught.value.hint


def test_real_torch() -> None:
    torch = need("torch")
    arrays = {**ARRAYS, "s": np.array(3.0), "b": np.array([True, False])}
    version = Version({"m.safetensors": save(arrays), "n.safetensors": bfloat16_file()})
    model = version.model()
    state = model.state_dict()
    for name, wanted in arrays.items():
        assert torch.equal(state[name], torch.from_numpy(wanted.copy()))
    assert state["x"].dtype == torch.bfloat16
    assert state["x"].tolist() == [1.0, 2.0]
    part = state["a"][1:]
    del state
    with pytest.raises(Conflict, match="views of"):
        model.close()
    del part
    model.close()


LAZY = """
import sys
import modelvault.loader.model
print(sorted({"numpy", "torch", "ml_dtypes"} & set(sys.modules)))
"""


def test_engines_are_imported_when_they_are_used() -> None:
    run = subprocess.run(
        [sys.executable, "-c", LAZY], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parent,
    )  # fmt: skip
    assert run.stdout.strip() == "[]"
