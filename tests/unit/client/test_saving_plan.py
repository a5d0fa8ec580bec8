"""Which files a state becomes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from modelvault.client.content import Content
from modelvault.client.saving_plan import plan
from modelvault.errors import Conflict, InvalidRequest
from modelvault.weights import safetensors
from support.engines import need

A, B, C = (np.full(size, size, "u1") for size in (10, 20, 30))


def whole(content: Content) -> bytes:
    with content.open() as reading:
        return reading.read(0, content.size)


def tensors(data: bytes) -> dict[str, bytes]:
    size = safetensors.header_size(data[:8], len(data))
    found = safetensors.parse(data[:size], len(data))
    return {tensor.name: data[tensor.begin : tensor.end] for tensor in found}


def test_one_file_without_a_limit() -> None:
    files = {"config.json": b"{}", "a/vocab.txt": memoryview(b"words")}
    contents = plan({"a": A, "b": B}, files, None)
    assert [one.path for one in contents] == ["a/vocab.txt", "config.json", "model.safetensors"]
    assert whole(contents[0]) == b"words"
    assert tensors(whole(contents[2])) == {"a": A.tobytes(), "b": B.tobytes()}
    with contents[1].open() as reading:
        assert reading.format() == "json"


def test_shards_and_their_index() -> None:
    contents = plan({"a": A, "b": B, "c": C, "tied": A}, {}, 30)
    paths = [one.path for one in contents]
    assert paths == [
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]  # fmt: skip
    assert json.loads(whole(contents[2])) == {
        "metadata": {"total_size": 60},
        "weight_map": {"a": paths[0], "b": paths[0], "c": paths[1], "tied": paths[0]},
    }
    assert tensors(whole(contents[0])).keys() == {"a", "b", "tied"}
    assert tensors(whole(contents[1])).keys() == {"c"}


def test_a_tensor_larger_than_a_shard_is_alone() -> None:
    contents = plan({"a": A, "c": C, "b": B}, {}, 1)
    assert [list(tensors(whole(one))) for one in contents[:3]] == [["a"], ["c"], ["b"]]


def test_two_names_of_one_tensor_are_stored_once() -> None:
    turned = C.reshape(5, 6)
    (content,) = plan(
        {"a": C, "b": C, "turned": turned, "again": turned, "copy": C.copy()}, {}, None
    )
    data = whole(content)
    assert content.size < 3 * C.size + 500
    assert tensors(data) == dict.fromkeys(["a", "b", "turned", "again", "copy"], C.tobytes())
    plain = need("safetensors.numpy").load(data)  # for which the further names aren't there
    assert set(plain) == {"a", "turned", "copy"}


def test_the_library_reads_it_and_every_tensor_is_aligned() -> None:
    state = {
        "a": np.ones(3, "u1"), "b": np.ones((2, 2), "f8"), "c": np.ones((), "f2"),
        "d": np.ones((0, 4), "f4"), "ünï.©": np.arange(5, dtype="i4"),
    }  # fmt: skip
    (content,) = plan(state, {}, None)
    data = whole(content)
    loaded = need("safetensors.numpy").load(data)
    assert set(loaded) == set(state)
    assert all(np.array_equal(loaded[name], state[name]) for name in state)
    size = safetensors.header_size(data[:8], len(data))
    assert size % 8 == 0
    for tensor in safetensors.parse(data[:size], len(data)):
        assert tensor.begin % (safetensors.BITS[tensor.dtype] // 8) == 0


def test_any_range_of_a_file() -> None:
    (content,) = plan({"a": A, "e": np.empty(0), "b": B, "t": C.reshape(5, 6).T}, {}, None)
    data = whole(content)
    with content.open() as reading:
        for begin in range(0, len(data), 3):
            for length in (1, 2, 37):
                assert (
                    reading.read(begin, min(length, len(data) - begin))
                    == (data[begin : begin + length])
                )


class Twice(dict[str, Any]):
    """A mapping that says a name twice."""

    def items(self) -> Any:
        yield from [("a", A), ("a", B)]


@pytest.mark.parametrize(
    ("state", "files", "limit", "code"),
    [
        (Twice(a=A), {}, None, "bad_tensor_name"),
        ({}, {}, None, "nothing_to_save"),
        ([("a", A)], {}, None, "nothing_to_save"),
        (None, {}, None, "nothing_to_save"),
        ({1: A}, {}, None, "bad_tensor_name"),
        ({("a", "b"): A}, {}, None, "bad_tensor_name"),
        ({"": A}, {}, None, "bad_tensor_name"),
        ({"__metadata__": A}, {}, None, "bad_tensor_name"),
        ({"\ud800": A}, {}, None, "bad_tensor_name"),
        ({"a": 3}, {}, None, "not_a_tensor"),
        ({"a": A, "step": 3.5}, {}, None, "not_a_tensor"),
        ({"a": A}, {}, 0, "bad_shard_size"),
        ({"a": A}, {}, "5GB", "bad_shard_size"),
        ({"a": A}, {}, True, "bad_shard_size"),
        ({"a": A}, {"model.safetensors": b""}, None, "file_clash"),
        ({"a": A}, {"model.safetensors.index.json": b""}, 5, "file_clash"),
        ({"a": A}, {"config.json": "{}"}, None, "not_bytes"),
        ({"a": A}, {3: b""}, None, "not_bytes"),
        ({"a": A}, [("config.json", b"{}")], None, "not_bytes"),
        ({"a": A}, {"../config.json": b""}, None, "bad_path"),
        ({"a": A}, {"Model.safetensors": b""}, None, "bad_path"),
        ({"a": A}, {"x": b"", "X": b""}, None, "bad_path"),
    ],
)
def test_bad_input(state: Any, files: Any, limit: Any, code: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        plan(state, files, limit)
    assert refused.value.code == code
    assert refused.value.hint


def test_more_names_than_a_header_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelvault.weights.layout.MAX_HEADER", 10_000)
    state = {f"layer.{number}.weight": A.copy() for number in range(300)}
    with pytest.raises(InvalidRequest) as refused:
        plan(state, {}, None)
    assert refused.value.code == "too_many_tensors"
    assert len(plan(state, {}, 1000)) == 4  # 100 tensors each, and the index


def test_more_shards_than_a_version_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelvault.client.saving_plan.MAX_FILES", 3)
    state = {name: A.copy() for name in "abc"}
    with pytest.raises(InvalidRequest) as refused:
        plan(state, {}, 1)
    assert refused.value.code == "too_many_files"
    assert "max_shard_size" in refused.value.hint
    del state["c"]
    assert len(plan(state, {}, 1)) == 3


def test_a_tensor_that_changes_meanwhile() -> None:
    torch = need("torch")
    value = torch.zeros(4)
    (content,) = plan({"w": value}, {}, None)
    with content.open() as reading:
        reading.check()
        value += 1
        with pytest.raises(Conflict) as refused:
            reading.check()
    assert refused.value.code == "file_changed"
    assert "'w'" in refused.value.message
