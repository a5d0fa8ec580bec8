from __future__ import annotations

import collections
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from modelvault.weights.sniff import SNIFF_BYTES, is_pickle, sniff, sniff_zip


class Evil:
    def __reduce__(self) -> tuple:
        return os.system, ("true",)


WEIGHTS = collections.OrderedDict((f"layer.{n}", [n, float(n)]) for n in range(4))
SAFE = save({"a": np.zeros(300, "f4")})


def zip_of(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return out.getvalue()


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


# A safetensors header of 0x5802.. bytes whose length field reads as a pickle's beginning.
POLYGLOT_LENGTH = (0x05580280).to_bytes(8, "little")


@pytest.mark.parametrize(
    ("path", "head", "format"),
    [
        ("model.safetensors", SAFE, "safetensors"),
        ("weights.bin", SAFE, "safetensors"),
        ("model.safetensors", b"\x80\x02" + bytes(6) + b'{"a":1}', "safetensors"),
        ("model.safetensors", POLYGLOT_LENGTH + b'{"a":{"dtype":"F32"', "safetensors"),
        ("m.gguf", b"GGUF\3\0\0\0", "gguf"),
        ("m.bin", b"GGUF\3\0\0\0", "gguf"),
        ("m.bin", b"lmgg\1\0\0\0", "ggml"),
        ("m.h5", b"\x89HDF\r\n\x1a\n", "hdf5"),
        ("m.tflite", b"\x1c\0\0\0TFL3", "tflite"),
        ("m.onnx", b"\x08\x07\x12\x07pytorch", "onnx"),
        ("m.onnx", b"\xff\x07", "other"),
        ("m.npy", npy(np.zeros(3)), "numpy"),
        ("m.npz", zip_of("a.npy"), "zip"),
        ("config.json", b"{}", "json"),
        ("modeling.py", b"import os", "python"),
        ("README.md", b"# hello", "text"),
        ("README", b"# hello", "other"),
        ("", b"", "other"),
        ("m.bin", b"", "other"),
        ("vocab.txt", b"c\nd\ne\nf\n", "text"),
        ("vocab.txt", b"the\nof\nand\n", "text"),
        ("merges.txt", b"(a b)\nN\n", "text"),
        ("x", b"cats and dogs\nare fine\n.", "other"),
        ("x", b"I am.\n", "other"),
        ("words", b"tattled\nrebuttal\n" * 500, "other"),
        ("words", b"date. stated. test\n", "other"),
        ("words", b"(dated.", "other"),
        ("words", b"]at.", "other"),
        ("labels.txt", b"Person\nPlane\n" * 50, "text"),
        ("vocab", b"in\nis\nit\n" * 50, "other"),
        ("vocab", b"a\nb\nc\nd\ne\n" * 50, "other"),
        ("lower", b"please\nput\ngo\nlong\n" * 50, "other"),
        ("x", b"N.", "other"),
        ("x", b"\x80", "other"),
        ("x", b"\x80\x02", "other"),
        ("x", b"\x80\x02\0", "other"),
        ("x", b"\x80\x09}q", "other"),
    ],
)
def test_harmless_formats(path: str, head: bytes, format: str) -> None:
    assert sniff(path, head) == format
    assert not is_pickle(format)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [WEIGHTS, Evil(), {"a": [1, 2], "b": ("x", None)}])
@pytest.mark.parametrize("path", ["model.safetensors", "config.json", "x", "m.pkl"])
def test_pickles_under_any_name(protocol: int, value: object, path: str) -> None:
    assert sniff(path, pickle.dumps(value, protocol)[:SNIFF_BYTES]) == "pickle"


@pytest.mark.parametrize(
    ("path", "head", "format"),
    [
        ("pytorch_model.bin", zip_of("archive/data.pkl", "archive/data/0"), "torch-zip"),
        ("model.safetensors", zip_of("archive/data.pkl"), "torch-zip"),
        ("legacy.pt", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "pickle"),
        ("x", b"\x80\x02X\xff\xff\0\0" + bytes(100), "pickle"),  # a text longer than the head
        ("m.npy", npy(np.array([{}], object)), "pickle"),
        ("m.joblib", b"\x78\x9c compressed", "pickle"),
        ("M.CKPT", b"?", "pickle"),
        ("m.pth", b"?", "pickle"),
        ("x", b"cos\nsystem\n(S'true'\ntR.", "pickle"),
        ("x", b"cos\nabort\n)R.", "pickle"),
        ("x", b"(S'true'\nios\nsystem\n.", "pickle"),
        ("x", b"(lp0\n" + b"I1\na" * 2000, "pickle"),
        ("x", b"]q\0(" + b"K\1" * 3000, "pickle"),
        ("x", b"(S'a\\x41\\z'\nI1\nd.", "pickle"),
        # JSON whose beginning runs as a program: a pickle, whatever its header says.
        ("m.safetensors", POLYGLOT_LENGTH + b"{   cos\nsystem\n(S'true'\ntR.", "pickle"),
    ],
)
def test_pickles_of_all_kinds(path: str, head: bytes, format: str) -> None:
    assert sniff(path, head[:SNIFF_BYTES]) == format
    assert is_pickle(format)


@pytest.mark.parametrize(
    ("names", "format"),
    [
        (["a.npy"], "zip"),
        ([], "zip"),
        (["x/1", "x/data.pkl"], "torch-zip"),
        (["X/DATA.PKL"], "torch-zip"),
        (["a.pickle"], "torch-zip"),
    ],
)
def test_zip_archives_by_their_members(names: list[str], format: str) -> None:
    assert sniff_zip(names) == format


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=8), st.binary(max_size=200))
def test_any_bytes_have_a_format(path: str, head: bytes) -> None:
    assert sniff(path, head)


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.integers() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    ),
    st.integers(2, 5),
)
def test_no_pickle_of_protocol_2_and_up_is_missed(value: object, protocol: int) -> None:
    assert sniff("model.safetensors", pickle.dumps(value, protocol)[:SNIFF_BYTES]) == "pickle"
