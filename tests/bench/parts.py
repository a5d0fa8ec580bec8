"""What a load is made of: processor time for each of its steps over one GiB, by itself.

Every step is one thread's, so its cost divided by the cores is the least that a load can take, and
whatever a load costs beyond their sum is ours to save.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import statistics
import time
from pathlib import Path
from typing import Self

import blake3
import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from measure import back_memory, emit
from weights import GIB

SEGMENT = 1 << 20
ROUNDS = 5
_STEPS = {
    "read": "copy ciphertext out of the page cache",
    "check": "hash it (BLAKE3)",
    "clear": "the kernel gives zeroed memory",
    "decrypt": "decrypt into it (AES-256-GCM)",
    "wipe": "zero it before it goes back",
}


def parts_case(folder: Path, size: int) -> None:
    """One line for each step: seconds of one core for a GiB."""
    folder.mkdir()
    file = folder / "cipher"
    with file.open("wb") as out:
        for _ in range(size // SEGMENT):
            out.write(os.urandom(SEGMENT))
    seconds: dict[str, list[float]] = {name: [] for name in _STEPS}
    for _ in range(ROUNDS):
        back_memory(2 * size)
        for name, spent in _one_round(file, size).items():
            seconds[name].append(spent * GIB / size)
    for name, label in _STEPS.items():
        emit(
            {
                "reading": "part",
                "part": name,
                "label": label,
                "cpu_s": round(statistics.median(seconds[name]), 6),
            }
        )
    file.unlink()


def _one_round(file: Path, size: int) -> dict[str, float]:
    spent = {}
    with _Steps(file, size) as steps:
        for name in _STEPS:
            begun = time.thread_time()
            getattr(steps, name)()
            spent[name] = time.thread_time() - begun
    return spent


class _Steps:
    """All of them over the same memory, in the order of a load."""

    def __init__(self, file: Path, size: int) -> None:
        self._file = file.open("rb")
        self._places = range(0, size, SEGMENT)
        self._cipher = AESGCM(AESGCM.generate_key(256))
        self._segment = self._cipher.encrypt(bytes(12), os.urandom(SEGMENT - 16), None)
        self._buffer = memoryview(bytearray(SEGMENT))
        self._memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._memory.madvise(mmap.MADV_HUGEPAGE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._memory.close()
        self._file.close()

    def read(self) -> None:
        for at in self._places:
            os.preadv(self._file.fileno(), [self._buffer], at)

    def check(self) -> None:
        for _ in self._places:
            blake3.blake3(self._buffer).digest()

    def clear(self) -> None:
        np.frombuffer(self._memory, np.uint8)[:: mmap.PAGESIZE] = 1

    def decrypt(self) -> None:
        with memoryview(self._memory) as view:
            for at in self._places:
                out = view[at : at + SEGMENT - 16]
                self._cipher.decrypt_into(bytes(12), self._segment, None, out)

    def wipe(self) -> None:
        first = ctypes.c_char.from_buffer(self._memory)
        ctypes.memset(ctypes.addressof(first), 0, len(self._memory))
