from __future__ import annotations

import json

import pytest

from modelvault.errors import IntegrityError
from modelvault.weights import index
from modelvault.weights.safetensors import TensorInfo

A = TensorInfo("a", "U8", (1,), 10, 11)
B = TensorInfo("b", "U8", (1,), 11, 12)


def index_of(weights: object) -> bytes:
    return json.dumps({"metadata": {"total_size": 2}, "weight_map": weights}).encode()


@pytest.mark.parametrize(
    ("path", "shard", "found"),
    [
        ("m.safetensors.index.json", "m-1.safetensors", "m-1.safetensors"),
        ("sub/m.safetensors.index.json", "m-1.safetensors", "sub/m-1.safetensors"),
        ("m.safetensors.index.json", "sub/m-1.safetensors", "sub/m-1.safetensors"),
    ],
)
def test_shards_are_relative_to_the_index(path: str, shard: str, found: str) -> None:
    assert index.parse(index_of({"a": shard}), path) == {"a": found}


def test_sizes_may_be_fractions_as_some_exporters_write_them() -> None:
    data = b'{"metadata":{"total_size":4.13e10},"weight_map":{"a":"m.safetensors"}}'
    assert index.parse(data, "m.safetensors.index.json") == {"a": "m.safetensors"}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not strict JSON"),
        (b"[]", "no weight_map"),
        (b"{}", "no weight_map"),
        (index_of([]), "no weight_map"),
        (index_of({}), "no weight_map"),
        (index_of({"a": 1}), "isn't a .safetensors name"),
        (index_of({"a": None}), "isn't a .safetensors name"),
        (index_of({"a": "m.bin"}), "isn't a .safetensors name"),
        (index_of({"a": "/m.safetensors"}), "plain relative path"),
        (index_of({"a": "./m.safetensors"}), "plain relative path"),
        (index_of({"a": "x//m.safetensors"}), "plain relative path"),
        (index_of({"a": "x\\m.safetensors"}), "plain relative path"),
        (index_of({"a": "x/../m.safetensors"}), "plain relative path"),
        (index_of({"a": "../m.safetensors"}), "outside"),
        (b'{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}', "twice"),
        (b'{"weight_map":' + b"[" * 50, "deeper"),
    ],
)
def test_bad_indices_are_refused_with_their_name(data: bytes, why: str) -> None:
    with pytest.raises(IntegrityError, match=why) as caught:
        index.parse(data, "m.safetensors.index.json")
    assert caught.value.code == "bad_index"
    assert caught.value.message.startswith("m.safetensors.index.json: ")


def test_a_shard_that_the_version_lacks_is_named() -> None:
    weights = {"a": "1.safetensors", "b": "2.safetensors", "c": "3.safetensors"}
    index.check("i", weights, list(weights.values()))
    with pytest.raises(IntegrityError, match=r"'2\.safetensors', which") as caught:
        index.check("i", weights, ["1.safetensors", "3.safetensors"])
    assert caught.value.code == "missing_shard"
    with pytest.raises(IntegrityError, match="3 such files"):
        index.check("i", weights, [])


def test_a_name_in_two_files_is_refused() -> None:
    assert index.merge({"1": [A], "2": [B]}) == {"a": ("1", A), "b": ("2", B)}
    with pytest.raises(IntegrityError, match="1 and 2 both hold a tensor 'a'") as caught:
        index.merge({"1": [A, B], "2": [A]})
    assert caught.value.code == "duplicate_tensor"


@pytest.mark.parametrize(
    ("weights", "where"), [({"a": "2"}, "it is in 1"), ({"c": "1"}, "it is nowhere")]
)
def test_a_tensor_that_is_not_in_its_shard_is_refused(weights: dict, where: str) -> None:
    merged = index.merge({"1": [A], "2": [B]})
    index.check_places("i", {"a": "1", "b": "2"}, merged)
    with pytest.raises(IntegrityError, match=where) as caught:
        index.check_places("i", weights, merged)
    assert caught.value.code == "misplaced_tensor"
