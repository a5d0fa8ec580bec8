"""The real `opa`: from the PATH, or where the servers are kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelvault.adapters.opa_tool import locate

VERSION = "opa-1.22.2"


def opa() -> Path:
    """Its path; without it a skip on a laptop and a failure under CI=true."""
    home = os.environ.get("MODELVAULT_SERVERS") or Path.home() / ".cache" / "modelvault-servers"
    kept = Path(home) / VERSION / "opa"
    found = kept if kept.exists() else locate()
    if found is None:
        why = f"opa isn't installed: put it on the PATH or at {kept}"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return found
