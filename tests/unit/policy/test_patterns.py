"""The intersection of path patterns never allows more than either side."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelvault.policy.patterns import both, matches

PIECES = st.sampled_from(["a", "b", "*", "?", "[", "]", "!", "[ab]", "[!a]", "[]a]", "[a-b]"])
PATTERN = st.lists(PIECES, min_size=1, max_size=4).map("".join)
PATTERNS = st.lists(PATTERN, min_size=1, max_size=3).map(tuple)


@given(PATTERNS, PATTERNS, st.text("ab]!", max_size=4))
@settings(max_examples=400)
def test_what_both_keep_each_allows(one, other, path):
    if matches(path, both(one, other)):
        assert matches(path, one)
        assert matches(path, other)


@given(PATTERNS)
def test_with_itself_and_with_everything_nothing_is_lost(patterns):
    assert set(both(patterns, patterns)) == set(patterns)
    assert set(both(patterns, ("*",))) == set(patterns)


def test_literal_paths_are_matched_exactly():
    assert both(("a/b.json",), ("a/?.json", "[a]/*")) == ("a/b.json",)
    assert both(("a?",), ("a[bc]",)) == ()
    assert matches("A", ("a",)) is False


@pytest.mark.parametrize(
    ("outer", "inner", "kept"),
    [
        ("*a*", "[ab]*.bin", ()),
        ("*]", "[ab]", ()),
        ("*!*", "[!a]", ()),
        ("*-*", "[a-z]", ()),
        ("*", "[ab]*", ("[ab]*",)),
        ("a/*", "a/[0-9]?.bin", ("a/[0-9]?.bin",)),
        ("a[b*", "a[bc", ()),
        ("*\0*", "[ab]", ()),
    ],
)
def test_what_stands_in_a_bracket_is_no_text(outer: str, inner: str, kept: tuple[str, ...]) -> None:
    assert both((outer,), (inner,)) == kept
    assert both((inner,), (outer,)) == kept
