"""How much memory of the host a stream takes at its peak, by the kernel's own count."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from modelvault import connect, wiring
from support.attacked import folder
from support.engines import need
from support.homes import isolated, safetensors_bytes

MIB = 1 << 20
SIZE = 96 * MIB
WINDOW = 16 * MIB

JOB = """
import ctypes, json, re, sys
import torch
from modelvault import connect
from modelvault.loader.engines.staging import StagedTensors, empty_on

def rest():
    ctypes.CDLL(None).malloc_trim(0)
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    return read("VmRSS")

def read(name):
    return int(re.search(name + r":\\\\s+(\\\\d+) kB", open("/proc/self/status").read())[1]) * 1024

def staged(model, window):
    # What feeds a device, with one that has no memory: what is left is the host's.
    nowhere = torch.device("meta")
    located = model._shards.locate(())
    return StagedTensors(located.values(), model._cleared, model._lent, empty_on(nowhere), nowhere,
                         model._fits, window)

def last(tensor):
    return 0 if tensor.is_meta else int(tensor.view(torch.int64).max()) & 255

window = int(sys.argv[1])
peaks = {}
torch.ones(1 << 24, dtype=torch.uint8).sum()  # brings in torch's own threads and libraries
with connect() as vault:
    for name in ("windowed", "staged", "one", "whole"):
        with vault.load("one" if name == "one" else "m", purpose="inference") as model:
            model.tensor_infos()
            before = rest()
            if name == "whole":
                tensors = model.state_dict()
                total = sum(map(last, tensors.values()))
                del tensors
            else:
                make = type(model).iter_tensors if name == "windowed" else staged
                total = 0
                for _, tensor in make(model, window=window):
                    total += last(tensor)
                    del tensor
            peaks[name] = read("VmHWM") - before, total
print(json.dumps(peaks))
""".replace("\\\\", "\\")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    need("torch")
    with pytest.MonkeyPatch.context() as patch:
        made = isolated(tmp_path_factory.mktemp("memory"), patch)
        wiring.init()
        weights = {f"w{number:02}": np.full(SIZE // 24, number, "u1") for number in range(24)}
        with connect() as vault:
            vault.create("m")
            plain = folder(made.parent / "in", {"w.safetensors": safetensors_bytes(weights)})
            vault.push(plain, "m")
            one = safetensors_bytes({"w": np.zeros(SIZE, "u1")})
            vault.create("one")
            vault.push(folder(made.parent / "one", {"w.safetensors": one}), "one")
        yield sum(int(array[0]) for array in weights.values())


def test_the_peak_is_the_windows_whatever_the_models_size(home: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", JOB, str(WINDOW)],
        capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    peaks = json.loads(done.stdout)
    assert [total for _, total in peaks.values()] == [home, 0, 0, home]
    slack = 16 * MIB  # segments' buffers, threads, Python
    assert peaks["windowed"][0] <= WINDOW + slack
    assert peaks["staged"][0] <= WINDOW + slack
    assert peaks["one"][0] <= WINDOW + slack  # nor does the size of a tensor matter to a device
    assert peaks["whole"][0] >= 0.9 * SIZE  # the measure measures
