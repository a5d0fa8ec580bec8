"""Headers that are written are headers that are read; names of tied tensors among them."""

from __future__ import annotations

import json

import pytest

from modelvault.errors import IntegrityError
from modelvault.weights import safetensors
from modelvault.weights.layout import Row, lay_out

ROWS = [Row("b", "U8", (3,), 3), Row("a", "F64", (2, 1), 16), Row("z", "F32", (0,), 0)]


def test_it_parses_back() -> None:
    layout = lay_out(ROWS, {"again": "a"}, {"format": "pt"})
    found = safetensors.parse(layout.header, layout.size)
    assert [(one.name, one.begin, one.size) for one in found] == [
        ("a", len(layout.header), 16),
        ("z", len(layout.header) + 16, 0),
        ("b", len(layout.header) + 16, 3),
        ("again", len(layout.header), 16),
    ]
    assert layout.size == len(layout.header) + 19
    assert len(layout.header) % 8 == 0


def header(tied: object) -> bytes:
    table = {
        "__metadata__": {safetensors.TIED: tied if isinstance(tied, str) else json.dumps(tied)},
        "a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
    }
    text = json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "tied",
    ["[]", "{", '{"b": "a", "b": "a"}', {"b": "c"}, {"a": "a"}, {"b": 3}, {"b": "b"}, {"b": None},
     {"b": "a", "c": "b"}],
)  # fmt: skip
def test_names_that_lie(tied: object) -> None:
    lying = header(tied)
    with pytest.raises(IntegrityError) as refused:
        safetensors.parse(lying, len(lying) + 2)
    assert refused.value.code == "bad_safetensors"


def test_others_metadata_means_nothing() -> None:
    text = json.dumps(
        {"__metadata__": {"b": "a"}, "a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}
    ).encode()
    plain = len(text).to_bytes(8, "little") + text
    assert [one.name for one in safetensors.parse(plain, len(plain) + 2)] == ["a"]
