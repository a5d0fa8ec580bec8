"""States of real frameworks are saved out of memory, and in it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelvault import connect, wiring
from modelvault.client.session import Session
from modelvault.integrations import training
from support.disk import disk_of_its_own
from support.engines import need
from support.homes import isolated
from support.models import tiny_llama

torch = need("torch")
transformers = need("transformers")

MIB = 1 << 20
STATE = 256 * MIB

# What a save of 256 MiB adds to the process's largest size ever: told by the kernel.
CHILD = """
import sys, threading
import modelvault, torch

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) << 10

def now():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) << 10

shape = (8, 4096, 2048)
weight = torch.empty(shape, dtype=torch.float32).normal_()
state = {"a": weight[:4], "turned": weight[4:].transpose(1, 2)}
with modelvault.connect() as vault:
    vault.save({"small": torch.zeros(3)}, "run:warm")  # what is imported and made once
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak is forgotten
    before = now()
    call = vault.save if sys.argv[1] == "save" else vault.begin_save
    saved = call(state, "run:step-1", max_shard_size=64 << 20)
    if sys.argv[1] != "save":
        saved = saved.wait()
    print(saved.size, peak() - before)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = isolated(tmp_path, monkeypatch)
    wiring.init()
    with connect() as vault:
        vault.create("run")
    return made


@pytest.mark.parametrize(
    ("how", "least", "most"), [("save", 0, 32 * MIB), ("begin_save", STATE, STATE + 32 * MIB)]
)
def test_the_peak_of_a_save(home: Path, how: str, least: int, most: int) -> None:
    """Without a copy it is threads times segments; in the background the copy, and no more."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, how], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    size, peak = map(int, done.stdout.split())
    assert size > STATE
    assert least <= peak <= most, (how, peak / MIB)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("plain") / "llama")


@pytest.fixture
def vault(tmp_path: Path, llama: Path) -> Iterator[Session]:
    with disk_of_its_own(tmp_path, llama), pytest.MonkeyPatch.context() as patch:
        isolated(tmp_path / "disk/vault", patch)
        wiring.init()
        with connect() as session:
            session.create("llama")
            yield session


@pytest.mark.parametrize("limit", [None, 60_000])
def test_transformers_reads_what_was_saved(vault: Session, llama: Path, limit: int | None) -> None:
    """A model in memory becomes a version that `from_pretrained` takes, tied weights and all."""
    network = transformers.AutoModelForCausalLM.from_pretrained(llama)
    network.lm_head.weight = network.model.embed_tokens.weight
    network.config.tie_word_embeddings = True
    files = {
        "config.json": network.config.to_json_string(use_diff=False).encode(),
        "generation_config.json": json.dumps({"max_new_tokens": 3}).encode(),
    }
    saving = vault.begin_save(
        network.state_dict(), "llama:step-1", files=files, max_shard_size=limit
    )
    tokens = torch.arange(3, 30)[None]
    with torch.inference_mode():
        expected = network(tokens).logits
    saving.wait()
    with vault.load("llama:step-1", purpose="inference") as model:
        found = transformers.AutoModelForCausalLM.from_pretrained(model.path())
        with torch.inference_mode():
            assert torch.equal(found(tokens).logits, expected)
        fresh = transformers.AutoModelForCausalLM.from_config(found.config)
        state = model.state_dict()  # with the tied name, so that nothing is missing
        fresh.load_state_dict(state, strict=True)
        del state
    with torch.inference_mode():
        assert torch.equal(fresh(tokens).logits, expected)


class TestTrainersState:
    def state(self) -> dict[str, object]:
        torch.manual_seed(1)
        net = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 2))
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
        net(torch.ones(3, 5)).sum().backward()
        optimizer.step()
        schedule.step()
        return {
            "net": net.state_dict(), "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(), "random": torch.get_rng_state(), "step": 3,
            "a.b": torch.ones(1), "a": {"b": torch.zeros(1)}, "rates": (0.1, float("inf")),
        }  # fmt: skip

    def test_there_and_back(self, vault: Session) -> None:
        state = self.state()
        tensors, files = training.flatten(state)
        assert list(files) == [training.FILE]
        vault.save(tensors, "llama:step-1", files=files)
        with vault.load("llama:step-1", purpose="fine-tuning") as model:
            found = training.restore(model)
        assert same(found, state)  # the model is closed, the tensors are the trainer's own

    def test_versions_that_were_saved_otherwise(self, vault: Session) -> None:
        from modelvault.errors import IntegrityError, NotFound

        vault.save({"w": torch.ones(2)}, "llama:step-1")
        vault.save({"w": torch.ones(2)}, "llama:step-2", files={training.FILE: b"[]"})
        told = b'{"schema": 1, "state": {"tensor": "v"}}'
        vault.save({"w": torch.ones(2)}, "llama:step-3", files={training.FILE: told})
        for step, family, code in (
            (1, NotFound, "no_state"),
            (2, IntegrityError, "bad_checkpoint"),
            (3, IntegrityError, "bad_checkpoint"),
        ):
            with vault.load(f"llama:step-{step}", purpose="fine-tuning") as model:
                with pytest.raises(family) as refused:
                    training.restore(model)
                assert refused.value.code == code

    def test_states_that_cant_be_flattened(self) -> None:
        from modelvault.errors import InvalidRequest

        large = {"w": torch.ones(1), "texts": ["x" * (1 << 20)] * 64}
        for state, code in (
            ({"step": 1}, "nothing_to_save"),
            ({"net": object()}, "not_plain"),
            (large, "values_too_large"),
        ):
            with pytest.raises(InvalidRequest) as refused:
                training.flatten(state)
            assert refused.value.code == code


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
