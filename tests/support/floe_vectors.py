"""Known-answer files of the FLOE specification, and our own failure vectors."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

import pytest

from modelvault.crypto.floe import Geometry

_REPOSITORY = Path(__file__).resolve().parents[2]
_OFFICIAL = (
    Path(os.environ.get("MODELVAULT_VECTORS", _REPOSITORY.parent / "shared" / "vectors")) / "floe"
)
_FAILURES = _REPOSITORY / "tests" / "vectors" / "floe"

OFFICIAL_AAD = b"This is AAD"


class Official(NamedTuple):
    name: str
    ciphertext: bytes
    plaintext: bytes

    @property
    def geometry(self) -> Geometry:
        bits = 2 if "rotation" in self.name else 20
        return Geometry(int.from_bytes(self.ciphertext[2:6]), bits)


def official() -> list[Official]:
    """All pairs in the folder; empty where it is absent."""
    return [
        Official(
            path.name.removesuffix("_ct.txt"),
            bytes.fromhex(path.read_text()),
            bytes.fromhex(path.with_name(path.name.replace("_ct", "_pt")).read_text()),
        )
        for path in sorted(_OFFICIAL.glob("*_ct.txt"))
    ]


def need_official() -> None:
    """Skip on a laptop, fail in CI, where the specification's files aren't there."""
    if _OFFICIAL.is_dir():
        return
    reason = f"no FLOE vectors at {_OFFICIAL}; set MODELVAULT_VECTORS to the folder above floe/"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def failures() -> list[dict]:
    """Our own vectors, each with the error code that it must give (None: it is good)."""
    return [json.loads(path.read_text()) for path in sorted(_FAILURES.glob("*.json"))]
