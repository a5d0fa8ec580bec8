"""Memory that can't be had: a limit of the process, of the control group, of the machine."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from modelvault import connect, wiring
from modelvault.client.session import Session
from modelvault.crypto.floe import Decryptor
from modelvault.errors import Unavailable
from modelvault.loader.memory import check_fits
from support.attacked import folder
from support.command import call
from support.homes import isolated, safetensors_bytes

MIB = 1 << 20
WEIGHTS = {f"w{n}": np.full(MIB // 4, n + 1, np.float32) for n in range(16)}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = isolated(tmp_path, monkeypatch)
    wiring.init(segment_length=1 << 16)
    with connect() as vault:
        vault.create("m")
        vault.push(folder(tmp_path / "in", {"w.safetensors": safetensors_bytes(WEIGHTS)}), "m")
    return place


@pytest.fixture
def vault(home: Path) -> Iterator[Session]:
    with connect() as session:
        yield session


# 8 MiB more address space than the process has: enough to work, not enough for 16 MiB of weights.
CHILD = """
import json, resource, sys
import numpy, modelvault.loader.engines.numpy
from modelvault import connect
from modelvault.errors import ModelVaultError
from modelvault_cli import main
from modelvault.client.session import Session

def limit(extra):
    pages = int(open("/proc/self/statm").read().split()[0])
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + extra if extra else hard, hard))

told = {}
with connect() as vault, vault.load("m", purpose="inference") as model:
    limit(8 << 20)
    try:
        model.tensors()
    except ModelVaultError as error:
        told["code"], told["message"], told["hint"] = error.code, error.message, error.hint
    told["nothing mapped"] = not any(one.alive for one in model._residents.values())
    limit(0)
    views = model.tensors()
    told["afterwards"] = [float(views[name][-1]) for name in ("w0", "w15")]
    del views

load = Session.load
def limited(*args, **more):
    model = load(*args, **more)
    limit(8 << 20)
    return model
Session.load = limited
sys.stdout.flush()
told["exit"] = main.run(["load", "m", "--purpose", "inference"])
print(json.dumps(told), file=sys.stderr)
"""


def test_a_limit_on_the_address_space(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stderr.splitlines()[-1])
    assert told["code"] == "insufficient_memory"
    assert "16.0" in told["message"]
    assert told["hint"]
    assert told["nothing mapped"]
    assert told["afterwards"] == [1, 16]
    assert told["exit"] == 6
    assert "error[insufficient_memory]" in done.stderr


def limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int, machine: int) -> None:
    """A machine whose control group and whose memory leave so many bytes."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (groups / "job").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {machine >> 10} kB\n")
    (proc / "self" / "cgroup").write_text("0::/job\n")
    (groups / "job" / "memory.max").write_text(f"{group + MIB}\n")
    (groups / "job" / "memory.current").write_text(f"{MIB}\n")
    (groups / "job" / "memory.stat").write_text("inactive_file 0\n")
    defaults = check_fits.__kwdefaults__
    assert set(defaults) == {"proc", "cgroups"}
    monkeypatch.setitem(defaults, "proc", proc)
    monkeypatch.setitem(defaults, "cgroups", groups)


@pytest.mark.parametrize(
    ("group", "machine", "word"),
    [(8 * MIB, 64 * MIB, "control group"), (64 * MIB, 8 * MIB, "machine")],
)
def test_a_limit_on_the_group_or_the_machine(
    vault: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], group: int, machine: int, word: str,
) -> None:  # fmt: skip
    limited(tmp_path, monkeypatch, group, machine)
    reads: list[str] = []
    real = vault._context.places._store.read_into

    def counting(name: str, offset: int, buffer: memoryview) -> None:
        reads.append(name)
        real(name, offset, buffer)

    monkeypatch.setattr(vault._context.places._store, "read_into", counting)
    with vault.load("m", purpose="inference") as model:
        for use in (model.read_bytes, model.path):
            with pytest.raises(Unavailable) as caught:
                use("w.safetensors")
            assert caught.value.code == "insufficient_memory"
            assert "16.00 MiB" in caught.value.message
            assert "8.00 MiB" in caught.value.message
            assert word in caught.value.message
        assert reads == []
        with pytest.raises(Unavailable):
            model.tensors()
        assert float(model.tensor("w7")[0]) == 8
    told = call(capsys, "load", "m", "--purpose", "inference", "--json")
    assert (told.code, told.error.code) == (6, "insufficient_memory")


def test_memory_that_ends_half_way(
    vault: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python's own MemoryError amid the decryption: nothing half-filled is ever handed out."""
    real = Decryptor.decrypt_into
    left = [3]

    def starved(self: Decryptor, *args: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise MemoryError
        real(self, *args)  # type: ignore[arg-type]

    with vault.load("m", purpose="inference") as model:
        with monkeypatch.context() as patched:
            patched.setattr(Decryptor, "decrypt_into", starved)
            with pytest.raises(MemoryError):
                model.read_bytes("w.safetensors")
            left[0] = 3
            told = call(capsys, "load", "m", "--purpose", "inference")
            assert told.code == 6
            assert "error[insufficient_memory]" in told.err
            assert "Traceback" not in told.err
        resident = model._residents["w.safetensors"]
        assert resident._region is not None
        payload = resident._payload
        begin = resident._present.index(0) * payload
        assert begin <= 2 * payload  # what the look for pickles needed
        with resident._region.view(begin, resident.size) as view:
            assert not any(view)  # what was decrypted in vain is wiped
        views = model.tensors()
        assert {name: float(array[0]) for name, array in views.items()} == {
            name: float(array[0]) for name, array in WEIGHTS.items()
        }
        del views
    assert vault.leases() == ()


def test_no_further_thread(
    vault: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """What is loaded is decrypted by the job's own thread; what would be is refused whole."""
    real = threading.Thread.start
    keeper = ["modelvault-lease"]

    def start(thread: threading.Thread) -> None:
        if thread.name not in keeper:
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with vault.load("m", purpose="inference") as model:
        assert float(model.tensors()["w15"][0]) == 16
    keeper.clear()
    with pytest.raises(Unavailable) as caught:
        vault.load("m", purpose="inference")
    assert caught.value.code == "no_thread"
    with pytest.raises(Unavailable):
        vault.export("m", tmp_path / "out")
    told = call(capsys, "load", "m", "--purpose", "inference", "--json")
    assert (told.code, told.error.code) == (6, "no_thread")
    assert vault.leases() == ()
