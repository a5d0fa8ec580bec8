"""The files that the benchmarks work on: real safetensors, made once a run, of random bytes."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

GIB = 1 << 30


def human(size: int) -> str:
    """A round number of bytes as people say it: `64 MiB`."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << power:
            return f"{size >> power} {unit}"
    return f"{size} bytes"


def write_safetensors(path: Path, size: int, tensors: int) -> None:
    """A float32 file of `tensors` equal tensors of `size` bytes together."""
    each = size // tensors
    header = {
        f"layers.{i}.weight": {
            "dtype": "F32",
            "shape": [each // 4096, 1024],
            "data_offsets": [i * each, (i + 1) * each],
        }
        for i in range(tensors)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in range(tensors):
            written = 0
            while written < each:
                written += file.write(os.urandom(min(8 << 20, each - written)))
        file.flush()
        os.fsync(file.fileno())


def touch(view: memoryview | mmap.mmap) -> int:
    """Read one byte of every page, as whoever uses the weights will."""
    return int(np.frombuffer(view, np.uint8)[:: mmap.PAGESIZE].sum())


def read_all(data: memoryview | mmap.mmap) -> int:
    """Read every byte, as whoever computes with the weights will."""
    whole = len(data) // 8 * 8
    return int(np.bitwise_xor.reduce(np.frombuffer(data, np.uint64, whole // 8)))


def mmap_and(use: Callable[[memoryview | mmap.mmap], int], path: Path) -> int:
    """The floor: nothing is copied; pages are mapped when `use` comes to them."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return use(mapped)
