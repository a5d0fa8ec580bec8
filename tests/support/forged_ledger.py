"""A ledger in which somebody changed rows: whichever way a broker reads them, it finds those."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from modelvault.catalog import Standing

Change = Callable[[Any], Any]
_PARTS = ("model", "tag", "version", "key")


class ForgedLedger:
    """`changes` say for each method what becomes of its answer; those of `model`, `tag`, `version`
    and `key` also count for rows that come by `standing` and `leased`. Only while `on`."""

    def __init__(self, ledger: Any, **changes: Change) -> None:
        self._ledger = ledger
        self._changes = changes
        self.on = True

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._ledger, name)
        if not self.on:
            return real
        if name == "standing":
            return lambda *args, **more: self._standing(real(*args, **more))
        if name == "leased":
            return lambda lease: (real(lease)[0], self._standing(real(lease)[1]))
        if name not in self._changes:
            return real
        return lambda *args, **more: self._changes[name](real(*args, **more))

    def _standing(self, seen: Standing) -> Standing:
        found = {
            name: self._changes[name](getattr(seen, name))
            for name in _PARTS
            if name in self._changes and getattr(seen, name) is not None
        }
        return msgspec.structs.replace(seen, **found)
