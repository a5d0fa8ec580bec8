"""vLLM's door without vLLM: which weights of which model it hands out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from modelvault.errors import AccessDenied, IntegrityError, InvalidRequest, ModelVaultError
from modelvault.integrations import vllm
from modelvault.sharing.address import VARIABLE
from support.engines import need
from support.hosts import Hosted, hosted
from support.loading import Version

CONFIG = b'{"model_type": "llama"}'
A, B = np.arange(5000, dtype="f4"), np.ones((3, 4), "f4")
FILES = {
    "config.json": CONFIG,
    "model-1.safetensors": save({"a": A}),
    "model-2.safetensors": save({"b": B}),
    "consolidated.safetensors": save({"other.name": A}),
    "adapter/adapter_model.safetensors": save({"lora": B}),
    "tokenizer.json": b"{}",
}
INDEX = json.dumps(
    {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
).encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_bytes(CONFIG)
    return tmp_path


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosted]:
    with hosted(FILES | {"model.safetensors.index.json": INDEX}) as made:
        monkeypatch.setenv(VARIABLE, made.address)
        yield made


def test_the_index_says_which_files_count_as_in_vllm() -> None:
    with Version(FILES | {"model.safetensors.index.json": INDEX}).model() as model:
        assert vllm.files(model) == ("model-1.safetensors", "model-2.safetensors")
    with Version(FILES).model() as model:
        assert set(vllm.files(model)) == {
            "model-1.safetensors", "model-2.safetensors", "consolidated.safetensors",
        }  # fmt: skip


def test_an_index_that_lies() -> None:
    lying = json.dumps({"weight_map": {"a": 7}}).encode()
    with (
        Version(FILES | {"model.safetensors.index.json": lying}).model() as model,
        pytest.raises(IntegrityError),
    ):
        vllm.files(model)


def test_all_weights_in_a_stream_and_nothing_is_kept(shared: Hosted, folder: Path) -> None:
    need("torch")
    found = {name: tensor.clone() for name, tensor in vllm.weights(str(folder))}
    assert set(found) == {"a", "b"}
    np.testing.assert_array_equal(found["a"].numpy(), A)
    np.testing.assert_array_equal(found["b"].numpy(), B)
    assert not shared.reads("consolidated.safetensors")
    for _name, tensor in vllm.weights(str(folder)):
        kept = tensor  # the last of them is still looked at when the model is let go of
    np.testing.assert_array_equal(kept.numpy(), B)


WORKER = """
import sys
from modelvault.integrations import vllm
print({name: float(tensor.sum()) for name, tensor in vllm.weights(sys.argv[1])}, flush=True)
"""


def test_of_what_all_workers_take_each_byte_is_decrypted_once(shared: Hosted, folder: Path) -> None:
    """docs/engines/vllm.md: two of tensor parallel 2, which are both shown all tensors."""
    need("torch")
    line = [sys.executable, "-c", WORKER, str(folder)]
    workers = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [worker.communicate(timeout=120)[0] for worker in workers]
    assert said == [f"{ {'a': float(A.sum()), 'b': float(B.sum())} }\n"] * 2
    for path in ("model-1.safetensors", "model-2.safetensors"):
        header = 8 + int.from_bytes(FILES[path][:8], "little")
        whole = len(FILES[path])
        assert whole - header <= shared.reads(path) <= whole + header, path  # its header, by itself


@pytest.mark.parametrize("config", [None, b'{"model_type": "draft"}'])
def test_another_models_folder_gets_no_weights(
    shared: Hosted, tmp_path: Path, config: bytes | None
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_bytes(config)
    with pytest.raises(InvalidRequest) as caught:
        next(vllm.weights(str(tmp_path)))
    assert caught.value.code == "other_model"


def test_outside_of_a_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ModelVaultError) as caught:
        next(vllm.weights(str(folder)))
    assert caught.value.code == "no_run"


def test_a_revocation_while_it_loads(shared: Hosted, folder: Path) -> None:
    need("torch")
    weights = vllm.weights(str(folder))
    next(weights)
    shared.version.lease.revoked = True
    shared.host._look()
    with pytest.raises(AccessDenied):
        for _ in weights:
            pass
