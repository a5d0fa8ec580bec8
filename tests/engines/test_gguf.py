"""GGUF: what the real reader sees, llama.cpp runs, and lies that neither may believe."""

from __future__ import annotations

import runpy
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelvault.client.session import Session
from modelvault.weights import gguf
from modelvault.weights.ggml import BLOCKS, FILE_TYPES, TYPES
from modelvault.weights.gguf import parse
from modelvault.weights.gguf_metadata import ArrayValue
from support.disk import vault_on_its_disk
from support.engines import ROOT, need
from support.models import gemma

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gemma(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory, plain: Path) -> Iterator[Session]:
    root = tmp_path_factory.mktemp("vault")
    with vault_on_its_disk(root, {"gemma": plain}) as session:
        yield session
        shutil.rmtree(root / "disk/vault/home/objects")  # 253 MB of ciphertext: long to search


def test_every_tensor_is_what_the_real_reader_reads(vault: Session, plain: Path) -> None:
    reader = _reader(plain)
    with vault.load("gemma:prod", purpose="inference") as model:
        header = model.gguf_header(plain.name)
        assert (header.architecture, header.quantisation) == ("gemma3", "Q4_K_M")
        assert set(header.metadata) == {key for key in reader.fields if "." in key} - COUNTS
        for key, value in header.metadata.items():
            if not isinstance(value, ArrayValue):
                assert value == reader.fields[key].contents()
        assert header.metadata["tokenizer.ggml.tokens"] == ArrayValue(262_144)
        tensors = model.tensors()
        assert set(tensors) == {theirs.name for theirs in reader.tensors}
        infos = model.tensor_infos()
        for theirs in reader.tensors:
            info = infos[theirs.name]
            assert info.dtype == theirs.tensor_type.name
            assert info.shape == tuple(int(extent) for extent in reversed(theirs.shape))
            assert gguf.is_quantised(info) == (info.dtype != "F32")
            assert np.array_equal(tensors[theirs.name], theirs.data)
        del tensors


# What the reader makes up of the file's fixed beginning.
COUNTS = {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count"}


def _reader(path: Path) -> Any:
    """The gguf package's reader, but not over lists: 262,144 tokens take it half a minute."""
    package = need("gguf")

    class Reader(package.GGUFReader):
        def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[Any, ...]:
            if raw_type != package.GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            kind, length = struct.unpack_from("<IQ", self.data, orig_offs)
            end = orig_offs + 12
            if kind == package.GGUFValueType.STRING:
                for _ in range(length):
                    end += 8 + int.from_bytes(self.data[end : end + 8].tobytes(), "little")
            else:
                end += length * np.dtype(self.gguf_scalar_to_np[kind]).itemsize
            return end - orig_offs, [], [], []

    return Reader(path)


def test_only_the_header_is_decrypted_for_what_it_says(vault: Session, plain: Path) -> None:
    with vault.load("gemma:prod", purpose="inference") as model:
        header = model.gguf_header(plain.name)
        first = header.tensors[0].begin
        assert len(model.tensor_infos()) == len(header.tensors)
        assert model.stats().costs.decrypted_bytes <= first + (2 << 20)


def test_llama_cpp_answers_as_from_a_plain_file(
    vault: Session, plain: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    llama = need("xllamacpp")
    options = llama.CommonParams()
    options.model.path, options.n_ctx, options.warmup = str(plain), 256, False
    server = llama.Server(options)
    asked = {"prompt": PROMPT, "max_tokens": 6, "temperature": 0}
    expected = server.handle_completions(asked)["choices"][0]["text"]
    del server
    capfd.readouterr()
    runpy.run_path(str(ROOT / "examples/gguf_llama.py"))["main"]("gemma:prod", PROMPT)
    first, second = [line for line in capfd.readouterr().out.splitlines() if line][:2]
    assert first == f"{plain.name}: gemma3, Q4_K_M"
    assert second == PROMPT + expected


def test_the_types_are_those_of_the_gguf_package() -> None:
    constants = need("gguf").constants
    kinds = {int(kind): kind.name for kind in constants.GGMLQuantizationType}
    assert kinds == TYPES
    for kind, (elements, width) in constants.GGML_QUANT_SIZES.items():
        assert BLOCKS.get(kind.name, (1, width)) == (elements, width)
    plain = {name for name in TYPES.values() if name not in BLOCKS}
    assert plain == {"F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64"}
    named = {int(kind): kind.name for kind in constants.LlamaFileType if kind.name != "GUESSED"}
    assert {number: name.removeprefix("ALL_").removeprefix("MOSTLY_")
            for number, name in named.items()} == FILE_TYPES  # fmt: skip


VALUES = st.one_of(
    st.booleans(), st.integers(0, 2**32 - 1), st.text(min_size=1, max_size=5),
    st.lists(st.text(max_size=3)), st.lists(st.integers(-9, 9)),
)  # fmt: skip
ARRAYS = st.tuples(
    st.sampled_from(["f4", "f2", "f8", "i1", "i2", "i4", "i8"]),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
)


@settings(max_examples=15, deadline=None)
@given(
    st.dictionaries(st.from_regex(r"[a-z][a-z0-9_.]{0,8}", fullmatch=True), VALUES, max_size=4),
    st.dictionaries(st.from_regex(r"[a-z][a-z0-9_.]{0,8}", fullmatch=True), ARRAYS, max_size=4),
    st.sampled_from([8, 32, 64]),
)
def test_agrees_with_what_the_gguf_package_writes_and_reads(
    tmp_path_factory: pytest.TempPathFactory,
    metadata: dict[str, Any],
    arrays: dict[str, tuple[str, list[int]]],
    alignment: int,
) -> None:
    package = need("gguf")
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    made = {
        name: np.arange(np.prod(shape)).astype(dtype).reshape(shape)
        for name, (dtype, shape) in arrays.items()
    }
    _write(package, path, metadata, made, alignment)
    data = path.read_bytes()
    ours, theirs = parse(lambda begin, end: data[begin:end], len(data)), package.GGUFReader(path)
    assert ours.architecture == "llama"
    for name, value in metadata.items():
        found = ours.metadata.get(name)
        if isinstance(value, list):  # the writer leaves empty lists out
            assert found == (ArrayValue(len(value)) if value else None)
        else:
            assert found == value
    assert {tensor.name for tensor in ours.tensors} == set(made)
    for theirs_one in theirs.tensors:
        one = next(each for each in ours.tensors if each.name == theirs_one.name)
        assert one.begin == theirs_one.data_offset
        assert one.shape == made[one.name].shape
        assert data[one.begin : one.end] == made[one.name].tobytes()


def _write(
    package: Any, path: Path, metadata: dict[str, Any], arrays: dict[str, np.ndarray], align: int
) -> None:
    writer = package.GGUFWriter(path, "llama")
    writer.add_custom_alignment(align)
    for name, value in metadata.items():
        match value:
            case bool():
                writer.add_bool(name, value)
            case int():
                writer.add_uint32(name, value)
            case str():
                writer.add_string(name, value)
            case list():
                writer.add_array(name, value)
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
