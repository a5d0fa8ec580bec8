"""Shell-style patterns on paths, as the `files` obligation has them."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

_WILD = re.compile(r"[*?\[]")
_BRACKET = re.compile(r"\[!?\]?[^\]]*\]")


def matches(path: str, patterns: tuple[str, ...]) -> bool:
    """Whether one of the patterns matches; case counts, and `*` also matches `/`."""
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def both(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    """Patterns that match only what both sides match.

    Exact where one pattern covers another; where two only overlap (`a*` and `*b`) nothing of the
    overlap is kept, since no single pattern says it: stricter than either, never wider.
    """
    kept = {inner for inner in one if any(_covers(outer, inner) for outer in other)}
    kept |= {
        inner
        for inner in other
        if any(_covers(outer, inner) for outer in one)
        and not any(_covers(outer, inner) for outer in kept)
    }
    return tuple(sorted(kept))


def _covers(outer: str, inner: str) -> bool:
    """Whether all that `inner` matches is matched by `outer`, as far as it is sure.

    With no wildcard but `*` in `outer`, matching the text of `inner` proves it: each wildcard of
    `inner` then lies within a stretch that one of outer's stars takes as a whole. A bracket counts
    as one character that `outer` doesn't name, or `*a*` would seem to cover `[ab]`.
    """
    if outer == inner:
        return True
    if not _WILD.search(inner):
        return fnmatchcase(inner, outer)
    return not re.search(r"[?\[\0]", outer) and fnmatchcase(_BRACKET.sub("\0", inner), outer)
