"""Frameworks that the tests use where they are installed (`make engines`, `make vllm`)."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def need(name: str) -> ModuleType:
    """The module; without it this test is skipped, and fails under CI."""
    try:
        return importlib.import_module(name)
    except ImportError:
        _absent(name, "make engines")
        raise


def need_vllm() -> Path:
    """The Python of the environment that vLLM has for itself."""
    python = ROOT / ".venv-vllm/bin/python"
    if not python.exists():
        _absent("vLLM", "make vllm")
    return python


def _absent(name: str, target: str) -> None:
    message = f"{name} isn't installed: {target}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message, allow_module_level=True)
