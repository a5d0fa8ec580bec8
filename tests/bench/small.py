"""One tensor out of a large file, a lease, a decision, and the command's start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from unittest import mock

from load import ours, vault
from measure import interleaved, report
from weights import GIB, write_safetensors

from modelvault.adapters.objects_folder import FolderStore
from modelvault.crypto.floe import HEADER_BYTES, Geometry

ROUNDS = 9


def one_tensor_case(folder: Path) -> None:
    """Bytes read at the store for one 32 MiB tensor of a 1 GiB file."""
    folder.mkdir()
    plain = folder / "model.safetensors"
    write_safetensors(plain, GIB, 32)
    read: list[int] = []
    inner = FolderStore.read_into

    def counting(store: FolderStore, name: str, offset: int, buffer: memoryview) -> None:
        read.append(len(buffer))
        inner(store, name, offset, buffer)

    with vault(folder) as session:
        session.push(plain, "m:one")
        with (
            mock.patch.object(FolderStore, "read_into", counting),
            session.load("m:one", purpose="inference") as model,
        ):
            entry = model.manifest.files[0]
            geometry = Geometry(entry.segment_length)
            view = model.tensor("layers.7.weight")
            size = view.nbytes
            del view
    own = -(-size // geometry.payload) + 1
    allowed = (own + 1) * entry.segment_length + 32 * (1 + geometry.segments(entry.size))
    report(
        "bytes read for one tensor",
        "32 MiB of 1 GiB",
        ours=sum(read),
        other=allowed + HEADER_BYTES,
        other_name="its segments + header + leaf list",
        unit="bytes",
        goal=1.0,
    )


def lease_case(folder: Path) -> None:
    """A whole lease and release, and a whole load of a tiny model, in milliseconds."""
    folder.mkdir()
    plain = folder / "model.safetensors"
    write_safetensors(plain, 1 << 16, 4)
    with vault(folder) as session:
        session.push(plain, "m:tiny")
        ours(session, "m:tiny")
        seconds = interleaved(
            {
                "ours": lambda: ours(session, "m:tiny"),
                "python": lambda: subprocess.run([sys.executable, "-c", "pass"], check=True),
            },
            ROUNDS,
        )
    report(
        "load of 64 KiB",
        "lease, decision, audit, verify, decrypt, release",
        ours=seconds["ours"],
        other=seconds["python"],
        other_name="python -c pass",
        unit="s",
        goal=4.0,
    )


def command_case() -> None:
    """`modelvault --help` against a bare interpreter."""
    command = str(Path(sys.executable).with_name("modelvault"))
    seconds = interleaved(
        {
            "ours": lambda: subprocess.run([command, "--help"], check=True, capture_output=True),
            "python": lambda: subprocess.run([sys.executable, "-c", "pass"], check=True),
        },
        ROUNDS,
    )
    report(
        "modelvault --help",
        "start",
        ours=seconds["ours"],
        other=seconds["python"],
        other_name="python -c pass",
        unit="s",
        goal=4.0,
    )
