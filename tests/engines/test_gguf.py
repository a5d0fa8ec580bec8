"""GGUF: what the real reader sees, llama.cpp runs, and lies that neither may believe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelvault.weights.ggml import BLOCKS, FILE_TYPES, TYPES
from modelvault.weights.gguf import ArrayValue, parse
from support.engines import need


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
