"""The demo's search must find what is there, at any offset, and nothing else."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from modelvault_cli.demo import search
from modelvault_cli.demo.search import WINDOW, Windows

PLAIN = os.urandom(64 * WINDOW + 100)
KEY = os.urandom(32)


@pytest.fixture(scope="module")
def windows() -> Windows:
    return Windows([PLAIN])


def test_counts_whole_windows(windows: Windows) -> None:
    assert len(windows) == 64


@pytest.mark.parametrize("before", [0, 1, 7, 8, 1023, 5000, (4 << 20) - 500, (4 << 20) + 3])
def test_finds_a_window_at_any_offset(windows: Windows, tmp_path: Path, before: int) -> None:
    (tmp_path / "deep").mkdir()
    file = tmp_path / "deep" / "file"
    file.write_bytes(os.urandom(before) + PLAIN[5 * WINDOW : 6 * WINDOW] + os.urandom(9))
    assert search.search(tmp_path, windows, []) == [search.Leak("plaintext", file, before)]


@pytest.mark.parametrize("start", [0, 1, 500, 1023])
def test_any_two_kib_of_plaintext_hold_a_window(windows: Windows, start: int) -> None:
    assert windows.find(b"x" * 3 + PLAIN[start : start + 2 * WINDOW]) is not None


def test_a_window_that_differs_in_its_last_byte_is_none(windows: Windows) -> None:
    changed = bytearray(PLAIN[:WINDOW])
    changed[-1] ^= 1
    assert windows.find(bytes(changed)) is None


@pytest.mark.parametrize("size", [0, 1, 7, 8, 1023])
def test_short_files_hold_none(windows: Windows, tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(PLAIN[:size])
    assert search.search(tmp_path, windows, [KEY]) == []


def test_windows_with_the_same_first_bytes_are_told_apart() -> None:
    two = [b"samebyte" + os.urandom(WINDOW - 8) for _ in range(2)]
    assert Windows([two[0]]).find(two[1]) is None
    assert Windows(two).find(two[1]) == 0


def test_padding_is_no_window() -> None:
    assert len(Windows([bytes(10 * WINDOW)])) == 0
    assert Windows([bytes(10 * WINDOW)]).find(bytes(10 * WINDOW)) is None


@pytest.mark.parametrize(
    "spelling",
    [
        KEY,
        KEY.hex().encode(),
        KEY.hex().upper().encode(),
        base64.b64encode(KEY),
        base64.urlsafe_b64encode(KEY),
    ],
    ids=["raw", "hex", "upper", "base64", "base64url"],  # the key is another one in each worker
)
@pytest.mark.parametrize("before", [0, 3, (4 << 20) - 5])
def test_finds_a_key_in_any_spelling(
    windows: Windows, tmp_path: Path, spelling: bytes, before: int
) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(before) + spelling + b"\n")
    assert search.search(tmp_path, windows, [os.urandom(32), KEY]) == [
        search.Leak("key", file, before)
    ]


def test_finds_nothing_in_noise(windows: Windows, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(6 << 20))
    assert search.search(tmp_path, windows, [KEY]) == []


def test_a_sample_is_a_window(windows: Windows) -> None:
    assert len(windows.sample()) == WINDOW
    assert windows.sample() in PLAIN
