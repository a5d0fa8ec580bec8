"""One tensor out of a large file, a lease, a decision, and the command's start."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

from load import ours, vault
from measure import interleaved, report
from weights import GIB, human, write_safetensors

from modelvault.adapters.objects_folder import FolderStore
from modelvault.crypto.floe import HEADER_BYTES, Geometry

ROUNDS = 9
TENSORS = 32


@contextmanager
def counted() -> Iterator[list[int]]:
    """The sizes of all reads at the store, weights and leaf lists alike."""
    read: list[int] = []
    inner = FolderStore.read_into

    def counting(store: FolderStore, name: str, offset: int, buffer: memoryview) -> None:
        read.append(len(buffer))
        inner(store, name, offset, buffer)

    with mock.patch.object(FolderStore, "read_into", counting):
        yield read


def one_tensor_case(folder: Path, size: int = GIB) -> None:
    """Bytes read at the store for one tensor, a 32nd of a file."""
    folder.mkdir()
    plain = folder / "model.safetensors"
    write_safetensors(plain, size, TENSORS)
    with vault(folder) as session:
        session.push(plain, "m:one")
        with counted() as read, session.load("m:one", purpose="inference") as model:
            entry = model.manifest.files[0]
            geometry = Geometry(entry.segment_length)
            view = model.tensor("layers.7.weight")
            own = -(-view.nbytes // geometry.payload) + 1
            del view
    allowed = (own + 1) * entry.segment_length + 32 * (1 + geometry.segments(entry.size))
    report(
        "bytes read for one tensor",
        f"{human(size // TENSORS)} of {human(size)}",
        ours=sum(read),
        other=allowed + HEADER_BYTES,
        other_name="its segments + header + leaf list",
        unit="bytes",
        goal=1.0,
    )


def first_tensor_case(folder: Path, size: int = GIB) -> None:
    """Bytes read at the store before the first tensor of a stream can be used."""
    if find_spec("torch") is None:
        print("left out: torch isn't installed", file=sys.stderr)
        return
    folder.mkdir()
    plain = folder / "model.safetensors"
    write_safetensors(plain, size, TENSORS)
    with vault(folder) as session:
        session.push(plain, "m:first")
        with counted() as read, session.load("m:first", purpose="inference") as model:
            stream = model.iter_tensors()
            next(stream)
            before = sum(read)
            stream.close()
    report(
        "bytes read before the first tensor",
        f"iter_tensors() of {human(size)}, {TENSORS} tensors",
        ours=before,
        other=plain.stat().st_size,
        other_name="the whole file",
        unit="bytes",
        goal=0.1,
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
