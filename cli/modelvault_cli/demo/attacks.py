"""What the demo does to its own vault: bytes flipped, an old record put back, keys overheard."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from modelvault import clock
from modelvault.client.keys import OneTimeKey

HOURS_AGO_MS = 2 * 3_600_000


def flip(path: Path, offset: int) -> None:
    """Flip one bit of the byte at `offset`; doing it twice undoes it."""
    mode = path.stat().st_mode
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))
    path.chmod(mode)


class TagRow:
    """A tag's row in the ledger as it lies in SQLite, to be put back behind the vault's back."""

    def __init__(self, ledger: Path, model: str, tag: str) -> None:
        self._ledger = ledger
        self._key = (model, tag)
        with closing(sqlite3.connect(ledger)) as database:
            asked = database.execute("SELECT * FROM tags WHERE model = ? AND tag = ?", self._key)
            self._columns = [column[0] for column in asked.description]
            self._values: Sequence[Any] = asked.fetchone()

    def put_back(self) -> None:
        """Make the row what it was when this was made."""
        columns = ", ".join(f"{name} = ?" for name in self._columns)
        with closing(sqlite3.connect(self._ledger)) as database:
            database.execute(
                f"UPDATE tags SET {columns} WHERE model = ? AND tag = ?",  # noqa: S608  our columns
                (*self._values, *self._key),
            )
            database.commit()


@contextmanager
def overheard() -> Iterator[set[bytes]]:
    """Collects every file key that is unsealed in this process meanwhile, to look for them."""
    keys: set[bytes] = set()
    real = OneTimeKey.open

    def listening(
        self: OneTimeKey, sealed: bytes, info: bytes, paths: Sequence[str]
    ) -> dict[str, Any]:
        opened = real(self, sealed, info, paths)
        keys.update(bytes(key.reveal()) for key in opened.values())
        return opened

    OneTimeKey.open = listening  # type: ignore[method-assign]
    try:
        yield keys
    finally:
        OneTimeKey.open = real  # type: ignore[method-assign]


@contextmanager
def hours_ago() -> Iterator[None]:
    """Set the wall clock of this process back meanwhile: a token minted now has expired since."""
    real = clock.utc_ms
    clock.utc_ms = lambda: real() - HOURS_AGO_MS
    try:
        yield
    finally:
        clock.utc_ms = real
