"""Lines of JSON values."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from modelvault.policy.lines import lines, nearest, repeated

TEXT = """{
  "a": [
    1, {"b,": "}"},
    "c\\"]"
  ], "d": {
    "e": null
  }
}"""


def test_each_value_has_its_line():
    assert lines(TEXT) == {
        (): 1,
        ("a",): 2,
        ("a", 0): 3,
        ("a", 1): 3,
        ("a", 1, "b,"): 3,
        ("a", 2): 4,
        ("d",): 5,
        ("d", "e"): 6,
    }


def test_the_nearest_line_is_that_of_what_encloses():
    found = lines(TEXT)
    assert nearest(found, ("d", "missing", 3)) == 5
    assert nearest(found, ("nowhere",)) == 1


def test_a_repeated_key_is_found_where_it_stands_again():
    assert repeated('{"a": {"b": 1},\n "b": 2,\n "a": 3}') == (("a",), 3)
    assert repeated(TEXT) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(JSON)
@settings(max_examples=150)
def test_every_value_of_any_document_has_the_line_that_it_has(value):
    text = json.dumps(value, indent=1, ensure_ascii=False)
    found = lines(text)
    rows = text.split("\n")

    def visit(node: object, path: tuple[str | int, ...]) -> None:
        row = rows[found[path] - 1]
        if path and isinstance(path[-1], str):
            assert row.strip().startswith(json.dumps(path[-1], ensure_ascii=False) + ":")
        inner = (
            node.items()
            if isinstance(node, dict)
            else enumerate(node)
            if isinstance(node, list)
            else ()
        )
        for key, child in inner:
            visit(child, (*path, key))

    visit(value, ())
