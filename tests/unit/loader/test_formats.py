from __future__ import annotations

import struct
import sys
import types

import numpy as np
import pytest

from modelvault.errors import AccessDenied, IntegrityError, InvalidRequest
from modelvault.weights.protobuf import field
from support.engines import need
from support.gguf_files import file_of, key, tensor, text
from support.loading import Sealed, Version
from support.onnx_files import external, graph_of, inline, model_of

WEIGHTS = np.arange(64, dtype="f4")
BLOCKS = bytes(range(34)) * 4
GGUF = (
    file_of(
        [key("general.architecture", 8, text(b"llama"))],
        [tensor("w", (16, 4), 0, 0), tensor("q", (64, 2), 8, 256)],
    )
    + WEIGHTS.tobytes()
    + BLOCKS
)


def test_tensors_of_a_gguf_file() -> None:
    with Sealed({"m.gguf": GGUF, "config.json": b"{}"}).model() as model:
        infos = model.tensor_infos()
        assert {name: (i.dtype, i.shape) for name, i in infos.items()} == {
            "w": ("F32", (4, 16)),
            "q": ("Q8_0", (2, 64)),
        }
        found = model.tensors()
        assert (found["w"] == WEIGHTS.reshape(4, 16)).all()
        assert (found["q"].dtype, found["q"].shape) == (np.uint8, (2, 68))
        assert found["q"].tobytes() == BLOCKS
        assert not found["q"].flags.writeable
        assert (model.tensor("q") == found["q"]).all()
        assert (model.get_slice("q", framework="numpy")[1] == found["q"][1]).all()
        header = model.gguf_header("m.gguf")
        assert header.architecture == "llama"
        assert header.tensors == tuple(infos.values())
        del found


def test_of_one_tensor_only_its_segments_are_read() -> None:
    data = file_of(tensors=[tensor("a", (4096,), 0, 0), tensor("b", (4096,), 0, 16384)]) + bytes(
        32768
    )
    version = Version({"m.gguf": data})
    with version.model() as model:
        model.gguf_header("m.gguf")
        header = version.bytes_read
        assert model.tensor("b").nbytes == 16384
        assert version.bytes_read - header <= 16384 + 2 * 1024


def test_safetensors_come_first_where_both_are() -> None:
    from safetensors.numpy import save

    files = {"m.gguf": GGUF, "m.safetensors": save({"s": WEIGHTS})}
    with Version(files).model() as model:
        assert set(model.tensor_infos()) == {"s"}
        assert set(model.tensor_infos("m.gguf")) == {"w", "q"}


SPLITS = ("x/m-00001-of-00002.gguf", "x/m-00002-of-00002.gguf")


def test_a_gguf_model_of_several_files() -> None:
    parts = [file_of(tensors=[tensor(name, (2,), 0, 0)], body=8) for name in "ab"]
    whole = dict(zip(SPLITS, parts, strict=True))
    with Version(whole).model() as model:
        assert list(model.tensor_infos()) == ["a", "b"]
    with (
        Version({SPLITS[1]: parts[1]}).model() as model,
        pytest.raises(IntegrityError, match=r"names 'x/m-00001-of-00002\.gguf'") as caught,
    ):
        model.tensor_infos()
    assert caught.value.code == "missing_shard"
    with Version(dict.fromkeys(SPLITS, parts[0])).model() as model:
        with pytest.raises(IntegrityError, match="both hold a tensor 'a'"):
            model.tensors()
        assert list(model.tensor_infos(SPLITS[0])) == ["a"]


@pytest.mark.parametrize("wanted", ["tensors", "tensor_infos", "gguf_header"])
def test_lies_and_what_cant_be_read_name_the_file(wanted: str) -> None:
    files = {"bad.gguf": GGUF[:-1], "old.gguf": file_of(version=1)}
    for path, family in {"bad.gguf": IntegrityError, "old.gguf": InvalidRequest}.items():
        with Version(files).model() as model, pytest.raises(family, match=f"^{path}: ") as caught:
            getattr(model, wanted)(path)
        assert caught.value.code in {"bad_gguf", "unsupported_gguf"}


@pytest.mark.parametrize("way", ["read_bytes", "open", "path"])
@pytest.mark.parametrize("path", ["m.gguf", "weights"])
def test_a_gguf_file_that_lies_gets_to_no_engine(path: str, way: str) -> None:
    with (
        Version({path: GGUF[:-1]}).model() as model,
        pytest.raises(IntegrityError, match=f"^{path}: not a sound GGUF file") as caught,
    ):
        getattr(model, way)(path)
    assert caught.value.code == "bad_gguf"


@pytest.mark.parametrize(
    "data", [file_of(version=1), file_of(tensors=[tensor("w", (2,), 99, 0)], body=8), b"GGU"]
)
def test_one_that_isnt_known_here_does(data: bytes) -> None:
    with Version({"m.gguf": data}).model() as model:
        assert model.read_bytes("m.gguf") == data


ESCAPES = {
    "parent": external("../secret"),
    "absolute": external("/etc/passwd"),
    "memory": external("*/_ORT_MEM_ADDR_/*", offset=4096, length=8),
    "windows": external("C:\\secret"),
}


@pytest.mark.parametrize("way", ["read_bytes", "open", "path", "onnx_session"])
@pytest.mark.parametrize("where", ESCAPES)
def test_external_data_outside_of_the_folder_never_gets_to_an_engine(where: str, way: str) -> None:
    if way == "onnx_session":
        need("onnxruntime")
    files = {"m.ONNX": model_of(graph_of(ESCAPES[where])), "w": b""}
    with Version(files).model() as model, pytest.raises(IntegrityError) as caught:
        getattr(model, way)("m.ONNX")
    assert caught.value.code == "bad_onnx"
    assert caught.value.message.startswith("m.ONNX: ")


def test_nor_does_it_hide_in_a_part_that_was_granted_with_pickles() -> None:
    from modelvault.access import Obligations

    files = {"m.onnx": model_of(graph_of(ESCAPES["parent"]))}
    with (
        Version(files).model(obligations=Obligations(allow_pickle=True)) as model,
        pytest.raises(IntegrityError),
    ):
        model.read_bytes("m.onnx")


def test_a_model_with_its_data_beside_it_is_handed_out() -> None:
    data = model_of(graph_of(external("w.data", offset=0, length=4), inline(b"x" * 99)))
    with Version({"s/m.onnx": data, "s/w.data": b"1234"}).model() as model:
        assert model.read_bytes("s/m.onnx") == data


class Options:
    add_external_initializers_from_files_in_memory = None


# Never gets so far that more would be asked of it.
RUNTIME = types.SimpleNamespace(SessionOptions=Options, __version__="1.22")

MISSING = {
    "not in the version": ({}, (), IntegrityError, "missing_external_data"),
    "too short": ({"s/w.data": b"123"}, (), IntegrityError, "bad_onnx"),
    "not granted": ({"s/w.data": b"1234"}, ("s/m.onnx",), AccessDenied, "file_not_granted"),
}


@pytest.mark.parametrize("case", MISSING)
def test_a_session_whose_data_cant_be_had(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    more, granted, family, code = MISSING[case]
    monkeypatch.setitem(sys.modules, "onnxruntime", RUNTIME)
    data = model_of(graph_of(external("w.data", offset=0, length=4)))
    with (
        Version({"s/m.onnx": data, **more}).model(*granted) as model,
        pytest.raises(family) as caught,
    ):
        model.onnx_session("s/m.onnx")
    assert caught.value.code == code
    assert "s/w.data" in caught.value.message


def test_a_tensor_that_onnxruntime_takes_from_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", RUNTIME)
    monkeypatch.setattr("modelvault.loader.engines.onnx._MOST", 4)
    data = model_of(graph_of(external("w.data", offset=0, length=4)))
    with (
        Version({"m.onnx": data, "w.data": b"1234"}).model() as model,
        pytest.raises(InvalidRequest, match="a tensor of 4 bytes") as caught,
    ):
        model.onnx_session("m.onnx")
    assert caught.value.code == "tensor_too_large"
    assert "modelvault run" in caught.value.hint


def test_without_onnxruntime_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with (
        Version({"m.onnx": model_of(b"")}).model() as model,
        pytest.raises(InvalidRequest) as caught,
    ):
        model.onnx_session("m.onnx")
    assert caught.value.code == "missing_extra"
    assert "encrypted-model-vault[onnx]" in caught.value.hint


def test_an_onnxruntime_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", RUNTIME)
    monkeypatch.delattr(Options, "add_external_initializers_from_files_in_memory")
    with (
        Version({"m.onnx": model_of(b"")}).model() as model,
        pytest.raises(InvalidRequest, match=r"onnxruntime 1\.22 takes no weights") as caught,
    ):
        model.onnx_session("m.onnx")
    assert caught.value.code == "missing_extra"
    assert "1.24 or later" in caught.value.hint


def test_a_gguf_in_torch() -> None:
    torch = need("torch")
    data = file_of(tensors=[tensor("b", (2,), 30, 0), tensor("q", (32,), 8, 32)]) + struct.pack(
        "<HH28x34s", 0x3F80, 0x4000, bytes(range(34))
    )
    with Version({"m.gguf": data}).model() as model:
        found = model.state_dict()
        assert found["b"].tolist() == [1.0, 2.0]
        assert found["b"].dtype == torch.bfloat16
        assert found["q"].dtype == torch.uint8
        assert found["q"].tolist() == list(range(34))
        del found


def test_one_field_of_a_graph_that_a_reader_would_merge() -> None:
    twice = model_of(graph_of()) + field(7, graph_of(external("../w")))
    with Version({"m.onnx": twice}).model() as model, pytest.raises(IntegrityError, match="twice"):
        model.read_bytes("m.onnx")


MISLEADING = {
    "m.safetensors.index.json": b'{"a":"../m.safetensors"}',
    "x/m.safetensors.index.json": b'{"a":"m.safetensors","a":"n.safetensors"}',
    "m.safetensors.index.fp16.json": b'{"a":"../m.fp16.safetensors"}',
    "pytorch_model.bin.index.json": b'{"a":"/etc/passwd"}',
    "m.INDEX.json": b'{"a":1}',
    "n.index.json": b'{"a":"x",}',
}


@pytest.mark.parametrize("way", ["read_bytes", "open", "path"])
@pytest.mark.parametrize("path", MISLEADING)
def test_an_index_that_engines_would_be_misled_by_is_handed_to_none(path: str, way: str) -> None:
    with (
        Version({path: b'{"weight_map":' + MISLEADING[path] + b"}"}).model() as model,
        pytest.raises(IntegrityError) as caught,
    ):
        getattr(model, way)(path)
    assert caught.value.code == "bad_index"


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("pytorch_model.bin.index.json", b'{"weight_map":{"a":"pytorch_model-1.bin"}}'),
        ("faiss.index.json", b'{"weight_map":[], "dim": 3.5}'),
        ("faiss.index.json", b"[]"),
        ("index.json", b"no JSON at all"),
        ("config.json", b'{"weight_map":{"a":"../x"}}'),
    ],
)
def test_other_documents_are(path: str, data: bytes) -> None:
    with Version({path: data}).model() as model:
        assert model.read_bytes(path) == data
