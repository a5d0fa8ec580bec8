"""vLLM takes a run's weights from memory that its workers share, and says what it says of files.

Three servers are started, each of which takes half a minute: of plain files, and of the vault's
model with one worker and with two.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelvault import connect, wiring
from support.engines import ROOT, need_vllm
from support.models import tiny_llama
from support.plaintext import Plaintext

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
PATIENCE_S = 400
PROMPTS = ("hello world", "The weights", "0123456789")
# float32: with two workers sums are made in another order, which bfloat16 would show.
OPTIONS = (
    "--enforce-eager", "--dtype", "float32", "--max-model-len", "128", "--max-num-seqs", "2",
    "--served-model-name", "m", "--host", "127.0.0.1",
)  # fmt: skip


@dataclass
class World:
    """A vault with a tiny model, its files in the clear, and a place for all that vLLM writes."""

    root: Path
    plain: Path
    env: dict[str, str]
    python: str

    def server(self, *model: str) -> list[str]:
        """vLLM's own server."""
        return [self.python, "-m", "vllm.entrypoints.openai.api_server", "--model", *model]

    def leases(self) -> int:
        with connect(home=self.root / "home") as session:
            entries = session.entries(limit=1000).entries
        return sum(entry.action == "load" and entry.outcome == "allowed" for entry in entries)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    python = need_vllm()
    root = tmp_path_factory.mktemp("vllm")
    plain = tiny_llama(tmp_path_factory.mktemp("plain"), shard="200KB")
    for folder in ("user", "tmp", "bin"):
        (root / folder).mkdir()
    env = {name: text for name, text in os.environ.items() if not name.startswith("MODELVAULT_")}
    env |= {
        "PATH": f"{root / 'bin'}:{BIN}:{os.environ['PATH']}",
        "HOME": str(root / "user"),
        "TMPDIR": str(root / "tmp"),
        "XDG_CACHE_HOME": str(root / "user/cache"),
        "XDG_CONFIG_HOME": str(root / "user/config"),
        "MODELVAULT_HOME": str(root / "home"),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("MODELVAULT_")]:
            patch.delenv(name)
        patch.setenv("HOME", env["HOME"])
        patch.setenv("MODELVAULT_HOME", env["MODELVAULT_HOME"])
        patch.setenv("XDG_CONFIG_HOME", env["XDG_CONFIG_HOME"])
        wiring.init()
        with connect() as session:
            session.create("llama")
            session.push(plain, "llama:prod")
        yield World(root, plain, env, str(python))


@pytest.fixture(scope="module")
def plain_answers(world: World) -> list[list[int]]:
    """Token ids for each prompt, from plain files."""
    with served(world, world.server(str(world.plain))) as port:
        return [ask(port, prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_tokens_as_from_plain_files(
    world: World, plain_answers: list[list[int]], workers: int
) -> None:
    before, listing = world.leases(), world.root / f"listing-{workers}"
    # The example says `python -m ... --model {model}`; this one looks into the folder before.
    shim = world.root / "bin/python"
    shim.write_text(f'#!/bin/sh\nls "$4" > {listing}\nexec {world.python} "$@"\n')
    shim.chmod(0o755)
    example = ["sh", str(ROOT / "examples/vllm_serve.sh"), "llama:prod"]
    with served(world, [*example, "--tensor-parallel-size", str(workers)]) as port:
        assert [ask(port, prompt) for prompt in PROMPTS] == plain_answers
    log = (world.root / "server.log").read_text(errors="replace")
    filled = set(re.findall(r"\((Worker\w*) pid=\d+\) .*Starting to load model", log))
    assert filled == ({"Worker"} if workers == 1 else {"Worker_TP0", "Worker_TP1"})
    (seconds,) = re.findall(r"Loading weights took ([\d.]+) seconds", log)
    assert float(seconds) < PATIENCE_S, "counted from another clock's beginning"
    assert len({tuple(answer) for answer in plain_answers}) > 1
    names = listing.read_text().split()
    assert {"config.json", "tokenizer.json"} <= set(names)
    assert not [name for name in names if name.endswith(".safetensors")]
    assert world.leases() == before + 1
    weights = Plaintext(*world.plain.glob("*.safetensors"))
    assert not weights.left(world.root / "user", world.root / "tmp")


@contextmanager
def served(world: World, command: Sequence[str]) -> Iterator[int]:
    """The port of a server that answers, which has ended afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = world.root / "server.log"
    words = [*command, *OPTIONS, "--port", str(port)]
    with log.open("wb") as out, subprocess.Popen(
        words, env=world.env, stdout=out, stderr=out, cwd=world.root / "tmp"
    ) as server:  # fmt: skip
        try:
            until = time.monotonic() + PATIENCE_S
            while not healthy(port):
                text = log.read_text(errors="replace")[-6000:]
                assert server.poll() is None, text
                assert time.monotonic() < until, text
                time.sleep(0.5)
            yield port
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(60)
            finally:
                server.kill()


def healthy(port: int) -> bool:
    try:
        return request(port, "GET", "/health", None)[0] == 200
    except OSError:
        return False


def ask(port: int, prompt: str) -> list[int]:
    asked = {
        "model": "m", "prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True,
        "return_token_ids": True,
    }  # fmt: skip
    status, body = request(port, "POST", "/v1/completions", json.dumps(asked))
    assert status == 200, body
    tokens = json.loads(body)["choices"][0]["token_ids"]
    assert len(tokens) == 8
    return list(tokens)


def request(port: int, method: str, path: str, body: str | None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
