"""On what the figures were taken: the first line of every run."""

from __future__ import annotations

import datetime
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from measure import emit

_PACKAGES = (
    "cryptography", "blake3", "numpy", "torch", "safetensors", "tensorizer", "cryptotensors",
    "runai-model-streamer", "fastsafetensors",
)  # fmt: skip


def describe(effort: str) -> None:
    """Emit the machine, the versions, the day, and how thorough the run is."""
    emit(
        {
            "machine": {
                "cpu": _found(Path("/proc/cpuinfo"), r"^model name\s*: (.*)$"),
                "cores": len(os.sched_getaffinity(0)),
                "memory_bytes": int(_found(Path("/proc/meminfo"), r"^MemTotal:\s+(\d+)") or 0)
                * 1024,
                "kernel": f"{platform.system()} {platform.release()}",
                "huge_pages": _found(
                    Path("/sys/kernel/mm/transparent_hugepage/enabled"), r"\[(\w+)\]"
                ),
                "python": platform.python_version(),
                "packages": {name: found for name in _PACKAGES if (found := _version(name))},
                "cuda": _cuda(),
            },
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "effort": effort,
        }
    )


def _memory() -> int:
    return int(_found(Path("/proc/meminfo"), r"^MemTotal:\s+(\d+)") or 0) * 1024


def _found(file: Path, pattern: str) -> str:
    try:
        found = re.search(pattern, file.read_text(), re.MULTILINE)
    except OSError:
        return ""
    return found[1] if found else ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cuda() -> str:
    try:
        import torch
    except ImportError:
        return "torch isn't installed"
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    return f"this benchmark loads into host memory only; there is {torch.cuda.get_device_name()}"
