"""Plain values come back to the bit, and nothing else comes back at all."""

from __future__ import annotations

import json
import math
import random
import struct
from collections import OrderedDict
from typing import Any

import pytest

from modelvault import canonical
from modelvault.errors import IntegrityError, InvalidRequest
from modelvault.weights.plain import decode, encode

VALUES = [
    None, True, False, 0, -1, 2**53, -(2**70), 2**53 - 1, 10**3998, -(10**3998), 0.1, -0.0, 1e-320,
    math.inf, -math.inf,
    "", "ünï", "a\nb", b"", b"\0\xff", [], (), {}, [1, [2.5, (3,)]], {"a": {"b": (1, None)}},
    {0: "int", "0": "text", None: 1, True: 2, 1.5: 3}, random.getstate(),
]  # fmt: skip


def no_tensor(_where: object, _value: object) -> None:
    return None


def through(value: object) -> Any:
    """As it is after it was written and read."""
    text = canonical.dumps(encode(value, no_tensor))
    return decode(canonical.loads(text, 1 << 20), lambda name: {"w": "the tensor"}[name])


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_there_and_back(value: object) -> None:
    found = through(value)
    assert found == value
    assert type(found) is type(value)
    if isinstance(value, float):
        assert struct.pack("d", found) == struct.pack("d", value)


def test_nan() -> None:
    assert math.isnan(through(float("nan")))


def test_mappings_of_other_kinds_become_dicts() -> None:
    assert through(OrderedDict(b=1, a=2)) == {"b": 1, "a": 2}
    assert list(through(OrderedDict(b=1, a=2))) == ["b", "a"]


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        3j,
        {"a": [object()]},
        {(1, 2): 3},
        {b"k": 3},
        "\ud800",
        print,
        type,
        10**4000,
        -(10**3999),
        10**9000,
    ],
    ids=range(12),
)
def test_what_isnt_plain(value: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        encode(value, no_tensor, where=("trainer",))
    assert refused.value.code == "not_plain"
    assert "trainer" in refused.value.message


def test_too_deep() -> None:
    value: object = 0
    for _ in range(12):
        value = {"a": value}
    with pytest.raises(InvalidRequest) as refused:
        encode(value, no_tensor)
    assert refused.value.code == "not_plain"


def test_the_deepest_that_is_taken_can_be_read() -> None:
    value: object = 1.5
    for _ in range(9):
        value = {"a": value}
    assert through(value) == value


@pytest.mark.parametrize(
    "value",
    [
        {}, {"a": 1, "b": 2}, {"what": 1}, {"int": 3}, {"int": "x"}, {"float": "0.1x"},
        {"float": 1}, {"float": "0x1p9999"},
        {"bytes": "!"}, {"bytes": 3}, {"tuple": 3}, {"tuple": {"a": 1}},
        {"dict": [1]}, {"dict": [[1, 2, 3]]}, {"dict": [["a", 1], ["a", 2]]}, {"dict": {"a": 1}},
        {"dict": [[[1], 2]]}, {"tensor": "nosuch"}, {"tensor": ["w"]}, {"int": "1" * 5000},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_what_nobody_wrote(value: object) -> None:
    with pytest.raises(IntegrityError) as refused:
        decode([value], lambda name: {"w": "the tensor"}[name])
    assert refused.value.code == "bad_checkpoint"
