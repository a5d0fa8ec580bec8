"""Looking for plaintext and for keys in every file under a folder.

Plaintext is cut at each whole KiB. Whoever left two KiB of it anywhere in a row, at any offset,
left one such window whole; the first eight bytes of each window are looked for at *every* offset
of every file, and a hit counts when all 1,024 bytes agree.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

WINDOW = 1024
_PRINT = 8
_SIEVE_BITS = 24
_CHUNK = 4 << 20

Words = npt.NDArray[np.uint64]


class Leak(NamedTuple):
    """Something secret in a file, `offset` bytes from its start."""

    what: str
    path: Path
    offset: int


class Windows:
    """The 1 KiB windows of some plaintexts, ready to be looked for.

    Windows that begin with eight equal bytes are left out: padding is no secret, and databases are
    full of zeros.
    """

    def __init__(self, plaintexts: Iterable[bytes]) -> None:
        whole = b"".join(text[: len(text) // WINDOW * WINDOW] for text in plaintexts)
        starts = np.frombuffer(whole, "<u8").reshape(-1, WINDOW // _PRINT)[:, 0]
        bytes_of = starts.copy().view(np.uint8).reshape(-1, _PRINT)
        kept = np.flatnonzero((bytes_of != bytes_of[:, :1]).any(axis=1))
        order = np.argsort(starts[kept], kind="stable")
        self._whole = whole
        self._places = kept[order]
        self._prints: Words = starts[kept][order]
        # One bit in about 200 is set for a model of 90 MB: most offsets need one look-up.
        self._sieve = np.zeros(1 << _SIEVE_BITS, bool)
        self._sieve[self._prints & np.uint64((1 << _SIEVE_BITS) - 1)] = True

    def __len__(self) -> int:
        return len(self._places)

    def sample(self) -> bytes:
        """One of the windows, for planting."""
        place = int(self._places[len(self._places) // 2])
        return self._whole[place * WINDOW :][:WINDOW]

    def find(self, data: bytes) -> int | None:
        """The offset of the first whole window in `data`, or None."""
        found = [offset for offset in self._candidates(data) if self._whole_window(data, offset)]
        return min(found, default=None)

    def _candidates(self, data: bytes) -> Iterator[int]:
        if len(data) < WINDOW or not len(self):
            return
        for shift in range(_PRINT):
            words = np.frombuffer(data, "<u8", (len(data) - shift) // _PRINT, shift)
            sifted = np.flatnonzero(self._sieve[words & np.uint64((1 << _SIEVE_BITS) - 1)])
            places = np.searchsorted(self._prints, words[sifted])
            places[places == len(self._prints)] = 0
            equal = self._prints[places] == words[sifted]
            yield from (sifted[equal] * _PRINT + shift).tolist()

    def _whole_window(self, data: bytes, offset: int) -> bool:
        window = data[offset : offset + WINDOW]
        first = np.frombuffer(window, "<u8", 1)
        low = int(np.searchsorted(self._prints, first, "left")[0])
        high = int(np.searchsorted(self._prints, first, "right")[0])
        return any(
            self._whole[place * WINDOW : (place + 1) * WINDOW] == window
            for place in self._places[low:high].tolist()
        )


def spellings(key: bytes) -> tuple[bytes, ...]:
    """How a key of at least 16 bytes may stand in a file: raw, hex, base64 and base64url."""
    return (
        key,
        key.hex().encode(),
        key.hex().upper().encode(),
        base64.b64encode(key).rstrip(b"="),
        base64.urlsafe_b64encode(key).rstrip(b"="),
    )


def search(folder: Path, windows: Windows, keys: Iterable[bytes]) -> list[Leak]:
    """All files under `folder` that hold a window or a key; the first place of each in a file."""
    needles = [needle for key in keys for needle in spellings(key)]
    leaks: list[Leak] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        leaks += _search_file(path, windows, needles)
    return leaks


def _search_file(path: Path, windows: Windows, needles: list[bytes]) -> Iterator[Leak]:
    sought = {"plaintext", "key"}
    for start, data in _chunks(path):
        if "plaintext" in sought and (offset := windows.find(data)) is not None:
            sought.discard("plaintext")
            yield Leak("plaintext", path, start + offset)
        hits = [hit for hit in map(data.find, needles) if hit >= 0] if "key" in sought else []
        if hits:
            sought.discard("key")
            yield Leak("key", path, start + min(hits))


def _chunks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Pieces that overlap by a window, so that nothing falls between two of them."""
    with path.open("rb") as file:
        start, data = 0, file.read(_CHUNK)
        while data:
            yield start, data
            more = file.read(_CHUNK)
            keep = data[-(WINDOW - 1) :] if more else b""
            start += len(data) - len(keep)
            data = keep + more
