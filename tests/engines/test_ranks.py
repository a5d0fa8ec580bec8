"""Eight ranks of one host share one lease, what is read from the store, and the memory."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelvault.client.session import Session
from modelvault.sharing.address import VARIABLE
from modelvault.sharing.host import Host
from support import runs
from support.disk import vault_on_its_disk
from support.engines import ROOT, need
from support.homes import safetensors_bytes
from support.ranks import Ranks, pss
from support.servers.process import free_port

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)
RANKS = 8
MOST = 1.05
ROWS = 8 << 10


@pytest.fixture
def sums(tmp_path: Path) -> dict[str, int]:
    """The sum of each tensor's bytes; the model is in `model`."""
    rng = np.random.default_rng(0)
    arrays = {f"w{n}": rng.random((ROWS, 512), dtype="f4") for n in range(4)}
    (tmp_path / "model").mkdir()
    for name, array in arrays.items():
        (tmp_path / "model" / f"{name}.safetensors").write_bytes(safetensors_bytes({name: array}))
    return {name: int(array.view("u1").sum(dtype="u8")) for name, array in arrays.items()}


@pytest.fixture
def vault(tmp_path: Path, sums: dict[str, int]) -> Iterator[Session]:
    with vault_on_its_disk(tmp_path, {"m": tmp_path / "model"}) as session:
        yield session
        shutil.rmtree(tmp_path / "disk/vault/home/objects")  # 64 MiB of ciphertext: long to search


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_eight_ranks_cost_what_one_does(
    vault: Session, sums: dict[str, int], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with vault.load("m", purpose="inference") as model, Host(model) as host:
        for name, value in host.environment.items():
            monkeypatch.setenv(name, value)
        ranks = Ranks(multiprocessing.get_context(method), RANKS)
        try:
            seen = ranks.start()
            everybody = [os.getpid(), *(process.pid or 0 for process in ranks.processes)]
            memory = sum(pss(pid) for pid in everybody)
        finally:
            codes = ranks.end()
        read = sum(model.stats().costs.read_bytes.values())
    assert codes == [0] * RANKS
    assert seen == dict.fromkeys(range(RANKS), sums)
    assert model.size <= read <= MOST * model.size
    assert 0.95 * model.size <= memory <= MOST * model.size  # Pss is rounded down
    print(f"read {read / model.size:.4f}, memory {memory / model.size:.4f} of the model")
    loads = [entry for entry in vault.entries(limit=100).entries if entry.action == "load"]
    assert [entry.outcome for entry in loads] == ["allowed"]


@contextmanager
def job(reference: str, *words: str, **settings: Any) -> Iterator[subprocess.Popen[str]]:
    """`support.ranks` under `modelvault run`, once it is ready."""
    kind = "private" if os.geteuid() == 0 else "links"  # others can't look into a private run
    path = os.pathsep.join([str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path}
    line = (sys.executable, "-m", "support.ranks", *words)
    with runs.started(
        reference, *line, kind=kind, stdin=subprocess.PIPE, env=env, **settings
    ) as process:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        yield process


def read_by_the_holder(front: int) -> int:
    """Bytes since it began, as the kernel counts them."""
    (holder,) = [one.pid for one in runs.family(front) if one.parent == front]
    return int(Path(f"/proc/{holder}/io").read_text().split()[1])  # rchar


@pytest.mark.parametrize("options", [("--stream",), ()], ids=["attached", "files"])
def test_eight_ranks_of_a_run_cost_what_one_does(
    vault: Session, sums: dict[str, int], tmp_path: Path, options: tuple[str, ...]
) -> None:
    """All that the holder reads but for its own code, and the memory of every process."""
    size = sum(path.stat().st_size for path in (tmp_path / "model").iterdir())
    folder = () if options else ("{model}",)
    vault.create("small")
    vault.save({"w": np.arange(7)}, "small")
    with job("small", "1", *folder, options=options) as process:
        code = read_by_the_holder(process.pid)
    with job("m", str(RANKS), *folder, options=options) as process:
        process.stdin.write("go\n")
        process.stdin.flush()
        seen = json.loads(process.stdout.readline())
        everybody = [process.pid, *(one.pid for one in runs.family(process.pid))]
        memory = sum(pss(pid) for pid in everybody)
        read = read_by_the_holder(process.pid) - code
        (lease,) = vault.leases("m")
        codes, errors = process.communicate("end\n", timeout=runs.PATIENCE_S)
    assert (json.loads(codes), process.returncode, errors) == ([0] * RANKS, 0, "")
    assert seen == {str(number): sums for number in range(RANKS)}
    assert len(everybody) > RANKS + 3  # they, and those that look after them
    assert 0.95 * size <= read <= MOST * size  # its code is read a little more or less
    assert 0.95 * size <= memory <= MOST * size
    print(f"read {read / size:.4f}, memory {memory / size:.4f} of the model")
    assert [each.id for each in vault.leases("m", ended=True)] == [lease.id]


RANK = """
import os, ranks
print(ranks.rank(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])), flush=True)
"""


def test_torchrun_under_a_run(vault: Session, tmp_path: Path) -> None:
    """As the example says: each adds up its rows, under one lease."""
    need("torch")
    (tmp_path / "job.py").write_text(RANK)
    path = os.pathsep.join([str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")])
    ended = runs.run(
        "m", str(runs.BIN / "torchrun"), f"--nproc-per-node={RANKS}", "--master-addr=127.0.0.1",
        f"--master-port={free_port()}", str(tmp_path / "job.py"),
        options=("--stream",), env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    with vault.load("m", purpose="evaluation") as model:
        tensors = model.tensors()
        wanted = sum(float(array.sum(dtype="f8")) for array in tensors.values())
        del tensors
    parts = [float(line) for line in ended.stdout.split()]
    assert len(parts) == RANKS
    assert sum(parts) == pytest.approx(wanted)
    assert [lease.purpose for lease in vault.leases("m", ended=True)].count("inference") == 1


def test_the_example(
    vault: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each rank takes its own rows: together they read the model once."""
    monkeypatch.setattr(sys, "argv", ["ranks.py", "m", "3"])
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.setenv(VARIABLE, "")  # the example sets it: so that it is put back
    importlib.import_module("ranks").main("m", 3)
    assert "1.00 x the model was read" in capsys.readouterr().out
