"""In which line of a JSON text each value begins, so that a finding can name it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

Path = tuple[str | int, ...]

_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}:,]|[^\s\[\]{}:,"]+|\n', re.DOTALL)


def lines(text: str) -> dict[Path, int]:
    """The line (from 1) of every value by its path; an object's member counts from its key on.

    `text` must be JSON; the root has the path `()`. A key that stands twice keeps its last line.
    """
    found: dict[Path, int] = {}
    for path, line, is_key in _walk(text):
        if is_key or path not in found:
            found[path] = line
    return found


def repeated(text: str) -> tuple[Path, int] | None:
    """The first key that stands twice in one object, and the line where it does again."""
    seen: set[Path] = set()
    for path, line, is_key in _walk(text):
        if is_key and path in seen:
            return path, line
        seen |= {path} if is_key else set()
    return None


def nearest(found: dict[Path, int], path: Path) -> int:
    """The line of `path`, or of what encloses it."""
    while path not in found and path:
        path = path[:-1]
    return found.get(path, 1)


def _walk(text: str) -> Iterator[tuple[Path, int, bool]]:
    """Path, line and whether it is a key, for each key and each value in order."""
    line = 1
    path: list[str | int] = []
    key_next = False
    for word in _WORD.findall(text):
        match word:
            case "\n":
                line += 1
            case "]" | "}":
                path.pop()
                key_next = False
            case ",":
                last = path[-1]
                key_next = isinstance(last, str)
                path[-1] = last if isinstance(last, str) else last + 1
            case ":":
                pass
            case _ if key_next:
                path[-1] = json.loads(word)
                key_next = False
                yield tuple(path), line, True
            case _:
                yield tuple(path), line, False
                if word in {"{", "["}:
                    key_next = word == "{"
                    path.append("" if key_next else 0)
