"""`modelvault run` of real engines, each with two workers that are spawned once its model is loaded
and then open the model's files by themselves.

What they print is what they print on plain files; their disk is searched for plaintext afterwards.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelvault.client.session import Session
from support import runs
from support.disk import vault_on_its_disk
from support.engines import ROOT, need
from support.models import gemma, minilm, recognisers, two_layers

EXAMPLES = ROOT / "examples"
PROMPT = "The capital of France is"
SENTENCES = (
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models in the clear, away from the disk that is searched."""
    root = tmp_path_factory.mktemp("plain")
    (root / "reader").mkdir()
    for path in recognisers():
        shutil.copy(path, root / "reader")
    outside = {"save_as_external_data": True, "size_threshold": 0, "convert_attribute": True}
    beside = two_layers(root / "beside", location="model.onnx.data", **outside)
    shutil.copy(beside / "model.onnx", beside / "again.onnx")  # two that share their data
    reader = root / "reader"
    return {"minilm": minilm(), "reader": reader, "beside": beside, "gemma": gemma(root)}


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory, plain: dict[str, Path]) -> Iterator[Session]:
    with vault_on_its_disk(tmp_path_factory.mktemp("vault"), plain) as session:
        yield session
        assert runs.places() == set()


def lines(name: str, example: str, *words: str, opened: str, kind: str = "private") -> list[str]:
    """What an example prints, run on the model `name`, without the lines by which both of its
    workers say that they have `opened` it."""
    script = str(EXAMPLES / example)
    ended = runs.run(f"{name}:prod", sys.executable, script, *words, kind=kind, timeout=300)
    assert ended.returncode == 0, ended.stderr
    # Two processes write to one pipe, and Python may write a line and its end by two calls.
    text = ended.stdout.replace("SpawnProcess-", "\nSpawnProcess-")
    found = [line for line in text.splitlines() if line]
    workers = [line for line in found if line.startswith("SpawnProcess-")]
    assert sorted(workers) == [f"SpawnProcess-{number} {opened}" for number in (1, 2)]
    return [line for line in found if line not in workers]


def test_transformers(vault: Session) -> None:
    need("transformers")
    found = lines(
        "minilm", "run_transformers.py", "{model}", *SENTENCES, opened="tokenises", kind="user"
    )
    values = dict(line.split(" ", 1)[::-1] for line in found)
    assert [float(values[sentence]) for sentence in SENTENCES] == pytest.approx(
        [1, 0.7553, -0.1050], abs=2e-4
    )


@pytest.mark.parametrize(("name", "kind"), [("reader", "links"), ("beside", "user")])
def test_onnxruntime(vault: Session, plain: dict[str, Path], name: str, kind: str) -> None:
    """Also of a model whose tensors lie in a file beside it."""
    need("onnxruntime")
    paths = sorted(path.name for path in plain[name].glob("*.onnx"))
    opened = f"opened {len(paths)}"
    found = lines(name, "run_onnxruntime.py", "{model}", opened=opened, kind=kind)
    assert found.pop(0) == f"MainProcess {opened}"
    assert found[0::2] == found[1::2]
    assert [line.partition(":")[0] for line in found[0::2]] == paths
    env = {name: text for name, text in os.environ.items() if not name.startswith("MODELVAULT")}
    plainly = _plainly(EXAMPLES / "run_onnxruntime.py", str(plain[name]), env=env)
    assert found == [line for line in plainly if "Process" not in line]


def test_external_data_isnt_had_through_links(vault: Session) -> None:
    """docs/engines/onnx.md: onnxruntime refuses it, by itself."""
    need("onnxruntime")
    script = str(EXAMPLES / "run_onnxruntime.py")
    ended = runs.run("beside:prod", sys.executable, script, "{model}", kind="links")
    assert ended.returncode == 1
    assert "External data path" in ended.stderr


def test_llama_cpp_answers_a_prompt(vault: Session, plain: dict[str, Path]) -> None:
    xllamacpp = need("xllamacpp")
    options = xllamacpp.CommonParams()
    options.model.path = str(plain["gemma"])
    options.n_ctx, options.warmup = 256, False
    server = xllamacpp.Server(options)
    asked = {"prompt": PROMPT, "max_tokens": 6, "temperature": 0}
    expected = PROMPT + server.handle_completions(asked)["choices"][0]["text"]
    del server
    path = f"{{model}}/{plain['gemma'].name}"
    found = lines("gemma", "run_llama_server.py", path, PROMPT, opened="serves")
    assert [line for line in found if line.startswith(PROMPT)] == [expected] * 3


def test_a_plain_shell(vault: Session, plain: dict[str, Path]) -> None:
    ended = runs.run("reader:prod", "sh", "-c", "cd {model} && sha256sum *")
    found = {path: digest for digest, path in (line.split() for line in ended.stdout.splitlines())}
    assert found == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in plain["reader"].iterdir()
    }


def _plainly(script: Path, *words: str, env: dict[str, str]) -> list[str]:
    line = [sys.executable, str(script), *words]
    ended = subprocess.run(line, env=env, capture_output=True, text=True, check=True, timeout=300)
    return ended.stdout.splitlines()
