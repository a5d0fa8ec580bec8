"""Peak memory by the operating system's count, each case in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from load import vault
from measure import report
from weights import GIB, write_safetensors

MIB = 1 << 20
_KEPT = ("PATH", "PYTHONPATH", "HOME", "XDG_CONFIG_HOME")

CHILD = """
import re, sys, modelvault, numpy
from modelvault.client import load, push
reference, what, path = sys.argv[1:]
with modelvault.connect() as session:
    session.whoami()
    if what == "push":
        session.push(path, reference, upload_all=True)
    elif what == "load":
        with session.load(reference, purpose="inference") as model:
            views = model.tensors()
            for view in views.values():
                view.reshape(-1)[::1024].sum()
            del view, views
# Not ru_maxrss: Linux lets a child begin with its parent's.
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024)
"""


def peak(vault: dict[str, str], reference: str, what: str, path: Path) -> int:
    """Peak resident bytes of a child that does `what`, with the vault that its environment names,
    and nothing else."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, reference, what, str(path)],
        check=True,
        capture_output=True,
        text=True,
        env={**{key: os.environ[key] for key in _KEPT if key in os.environ}, **vault},
    )
    return int(done.stdout)


def memory_cases(folder: Path, sizes: Sequence[int] = (GIB // 4, GIB)) -> None:
    """Load: plaintext x 1.02 + 64 MiB above an idle session; push: 192 MiB for any size."""
    folder.mkdir()
    with vault(folder) as session:
        for size in sizes:
            plain = folder / f"{size}.safetensors"
            write_safetensors(plain, size, 32)
            session.push(plain, f"m:s{size}")
    embedded = {"MODELVAULT_HOME": str(folder / "home")}
    idle = peak(embedded, "m", "nothing", folder)
    for size in sizes:
        name = f"{size // MIB} MiB"
        plain = folder / f"{size}.safetensors"
        report(
            "peak memory of load",
            name,
            ours=peak(embedded, f"m:s{size}", "load", plain) - idle,
            other=size * 1.02 + 64 * MIB,
            other_name="1.02 x plaintext + 64 MiB, above an idle session",
            unit="bytes",
            goal=1.0,
        )
        report(
            "peak memory of push",
            name,
            ours=peak(embedded, "m", "push", plain),
            other=192 * MIB,
            other_name="192 MiB, the whole process",
            unit="bytes",
            goal=1.0,
        )
