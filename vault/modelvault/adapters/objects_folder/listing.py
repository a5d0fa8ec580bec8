"""What is in the store."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from modelvault.adapters.objects_folder import place
from modelvault.ports.objects import NAME, ObjectInfo

_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


def folders(root: Path) -> list[tuple[str, ...]]:
    """The folders that may hold objects, in the order of their names. Raises OSError."""
    keys = [("keys", name) for name in _names(root, ("keys",)) if _ID.fullmatch(name)]
    return [*keys, ("objects",)]


def objects(root: Path, parts: tuple[str, ...]) -> Iterator[ObjectInfo]:
    """The objects in one folder, by name; none where it is gone. Raises OSError."""
    for file in _names(root, parts):
        name = "/".join((*parts, file))
        if NAME.fullmatch(name):
            try:
                found = (root / name).lstat()
            except FileNotFoundError:
                continue  # deleted meanwhile
            if stat.S_ISREG(found.st_mode):
                yield ObjectInfo(name, found.st_size, found.st_mtime_ns // 1_000_000)


def _names(root: Path, parts: tuple[str, ...]) -> list[str]:
    try:
        with place.folder(root, parts) as folder:
            return sorted(os.listdir(folder))  # noqa: PTH208 - through the descriptor
    except FileNotFoundError:
        root.stat()  # without its root a store isn't empty, but gone
        return []
