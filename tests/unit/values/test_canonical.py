"""Canonical JSON out, strict JSON in."""

from __future__ import annotations

import json
from enum import IntEnum
from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault import canonical
from modelvault.errors import IntegrityError, InvalidRequest

LIMIT = 10_000


def refused(text: str | bytes, limit: int = LIMIT) -> str:
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    with pytest.raises(InvalidRequest) as error:
        canonical.loads(data, limit)
    return error.value.code


@pytest.mark.parametrize(
    ("value", "text"),
    [
        # RFC 8785, sections 3.2.2 and 3.2.3, without their floats
        (
            {
                "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/",
                "literals": [None, True, False],
            },
            '{"literals":[null,true,false],"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}',
        ),
        (
            {
                "\u20ac": "Euro Sign",
                "\r": "Carriage Return",
                "\ufb33": "Hebrew Letter Dalet With Dagesh",
                "1": "One",
                "\U0001f600": "Emoji: Grinning Face",
                "\u0080": "Control",
                "\u00f6": "Latin Small Letter O With Diaeresis",
            },
            '{"\\r":"Carriage Return","1":"One","\u0080":"Control",'
            '"\u00f6":"Latin Small Letter O With Diaeresis","\u20ac":"Euro Sign",'
            '"\U0001f600":"Emoji: Grinning Face","\ufb33":"Hebrew Letter Dalet With Dagesh"}',
        ),
        ("\b\t\n\f\r\u0000\u001f\u007f\u2028/", '"\\b\\t\\n\\f\\r\\u0000\\u001f\u007f\u2028/"'),
        ({"b": [], "a": {}}, '{"a":{},"b":[]}'),
        ((1, 2), "[1,2]"),
        (0, "0"),
        (-(2**53) + 1, "-9007199254740991"),
        (IntEnum("N", "one").one, "1"),
        (True, "true"),
        ("", '""'),
    ],
)
def test_canonical_form(value: object, text: str) -> None:
    assert canonical.dumps(value) == text.encode()


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (1.0, "bad_json"),
        (float("nan"), "bad_json"),
        (2**53, "bad_json"),
        (-(2**53), "bad_json"),
        (b"bytes", "bad_json"),
        ({1: 2}, "bad_json"),
        ({None: 2}, "bad_json"),
        ({1, 2}, "bad_json"),
        ("\ud800", "bad_json"),
        ({"\udfff": 1}, "bad_json"),
        (nested(33), "too_deep"),
        (object(), "bad_json"),
    ],
)
def test_what_has_no_canonical_form(value: object, code: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        canonical.dumps(value)
    assert error.value.code == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"a":1,"a":1}', "bad_json"),
        ('{"a":1,"\\u0061":1}', "bad_json"),
        ('[{"x":{"a":1,"a":2}}]', "bad_json"),
        ("1.0", "bad_json"),
        ("1e3", "bad_json"),
        ("-0.0", "bad_json"),
        ("NaN", "bad_json"),
        ("Infinity", "bad_json"),
        ("[-Infinity]", "bad_json"),
        ("9007199254740992", "bad_json"),
        ("-9007199254740992", "bad_json"),
        ("1" * 5000, "bad_json"),
        ("01", "bad_json"),
        ("+1", "bad_json"),
        ("'a'", "bad_json"),
        ('"\\ud800"', "bad_json"),
        ('{"\\udc00":1}', "bad_json"),
        ('"\\ud800\\ud800"', "bad_json"),
        ('"\ud800"', "bad_json"),
        (b'"\xff"', "bad_json"),
        (b'"\xc0\x80"', "bad_json"),
        ('\ufeff{"a":1}', "bad_json"),
        ('{"a":1}'.encode("utf-16"), "bad_json"),
        ('"a\nb"', "bad_json"),
        ('"\\x41"', "bad_json"),
        ("", "bad_json"),
        (" ", "bad_json"),
        ("{}{}", "bad_json"),
        ("[1,]", "bad_json"),
        ('{"a":1,}', "bad_json"),
        ("[", "bad_json"),
        ("]", "bad_json"),
        ("[}", "bad_json"),
        ('"', "bad_json"),
        ("// x\n1", "bad_json"),
        ("[" * 33 + "]" * 33, "too_deep"),
        ('{"a":' * 33 + "1" + "}" * 33, "too_deep"),
        ('[{"a":' * 17 + "1" + "}]" * 17, "too_deep"),
        ("[" * 3000, "too_deep"),
        ('["\\\\",' + "[" * 32 + "]" * 33, "too_deep"),
        ('["\\"",' + "[" * 32 + "]" * 33, "too_deep"),
    ],
)
def test_what_isnt_strict_json(text: str | bytes, code: str) -> None:
    assert refused(text) == code


@pytest.mark.parametrize(
    "text",
    [
        "[" * 32 + "]" * 32,
        '"' + "[" * 100 + '"',
        '["' + '\\"' + "[" * 100 + '"]',
        '["\\\\\\"[[[", "' + "{" * 100 + '"]',
        "[" + ",".join(["[[]]"] * 500) + "]",
        '"\\ud83d\\ude00"',
        "9007199254740991",
        ' { "a" : [ 1 , 2 ] } \n',
    ],
)
def test_what_is_strict_json(text: str) -> None:
    assert canonical.loads(text.encode(), LIMIT) == json.loads(text)


def test_the_limit_is_on_bytes_and_checked_first() -> None:
    assert canonical.loads(b'"\xc3\xa9"', 4) == "é"
    assert refused(b'"\xc3\xa9"', 3) == "too_large"
    assert refused(b"\xff" * 11, 10) == "too_large"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_round_trip_and_one_form(value: object) -> None:
    text = canonical.dumps(value)
    assert canonical.loads(text, len(text)) == value
    assert canonical.dumps(canonical.loads(text, len(text))) == text


class Letter(msgspec.Struct, forbid_unknown_fields=True):
    kind: Literal["a", "b"]
    count: int = 0
    data: bytes = b""


def decoded(text: str) -> Letter:
    return canonical.decode(text.encode(), Letter, limit=LIMIT, what="letter")


def test_values_become_and_come_from_json() -> None:
    letter = Letter("a", 2, b"\xff")
    assert canonical.encode(letter) == b'{"count":2,"data":"/w==","kind":"a"}'
    assert decoded('{"kind":"a","count":2,"data":"/w=="}') == letter


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"kind":"c"}', "bad_document"),
        ('{"kind":"a","more":1}', "bad_document"),
        ('{"kind":"a","line\\nfeed\\u001b[31m":1}', "bad_document"),
        ('{"kind":"a","count":"1"}', "bad_document"),
        ('{"kind":"a","count":true}', "bad_document"),
        ('{"kind":"a","data":"/w"}', "bad_document"),
        ("{}", "bad_document"),
        ("[]", "bad_document"),
        ('{"kind":"a","kind":"a"}', "bad_json"),
        ("[" * 40, "too_deep"),
        ('"' + "x" * LIMIT + '"', "too_large"),
    ],
)
def test_decode_names_the_document_in_one_line(text: str, code: str) -> None:
    with pytest.raises(IntegrityError) as error:
        decoded(text)
    assert error.value.code == code
    assert error.value.message.startswith("letter: ")
    assert error.value.message.isprintable()
    with pytest.raises(InvalidRequest) as request:
        canonical.decode(text.encode(), Letter, limit=LIMIT, what="letter", error=InvalidRequest)
    assert request.value.message == error.value.message


def test_documents_of_others_may_hold_fractions_and_nothing_else_that_is_loose() -> None:
    assert canonical.loads_foreign(b'{"a":1.5,"b":[1e3]}', 100) == {"a": 1.5, "b": [1000.0]}
    for data in (b'{"a":NaN}', b'{"a":1,"a":2}', b"[" * 40, b'"\\ud800"', b"9007199254740993"):
        with pytest.raises(InvalidRequest):
            canonical.loads_foreign(data, 100)
    with pytest.raises(InvalidRequest, match="the limit is 2"):
        canonical.loads_foreign(b"1.5", 2)
