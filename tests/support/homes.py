"""Homes of embedded vaults for tests, away from the user's own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

_NAMES = {"float32": "F32", "float16": "F16", "int64": "I64", "uint8": "U8"}


def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that doesn't exist yet; nothing in the environment points elsewhere."""

    for name in [name for name in os.environ if name.startswith("MODELVAULT_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("MODELVAULT_HOME", str(home))
    return home


def safetensors_bytes(tensors: dict[str, np.ndarray]) -> bytes:
    """The tensors as a safetensors file, written by hand."""
    header: dict[str, object] = {}
    body = b""
    for name, array in tensors.items():
        data = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body
