"""What a file is by its first bytes, where its name says something else."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save

from modelvault.weights import mistaken


def zipped() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("data.pkl", b"x")
    return held.getvalue()


def an_array() -> bytes:
    held = io.BytesIO()
    np.save(held, np.ones(2))
    return held.getvalue()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b'{"a": 1}', "JSON"),
        (b"\n  [1, 2]", "JSON"),
        (b"{}", "JSON"),
        (b"hello, world", "text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "a pointer of Git LFS"),
        (b"GGUF\3\0\0\0", "a GGUF file"),
        (zipped(), "a zip archive"),
        (an_array(), "a numpy array"),
        (b"\x80\4\x95\x1a", "a pickle"),
        (save({"a": np.ones(2, "f4")}), "a safetensors file"),
        (b"", ""),
        (b"\x80", ""),
        (b"\x80\6", ""),
        (bytes(16), ""),
        ("\N{SNOWMAN} snow".encode(), ""),
    ],
)
def test_kinds(data: bytes, told: str) -> None:
    found = mistaken.kind(data[: mistaken.SAMPLE])
    assert found.startswith(told)
    assert bool(found) is bool(told)


@pytest.mark.parametrize("secret", [b'{"sekrit": 1}', b"sekrit text", b"version sekrit"])
def test_nothing_of_the_file_is_said(secret: bytes) -> None:
    assert "sekrit" not in mistaken.kind(secret)
