"""One served vault for all tests here: two brokers over the real parts."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from modelvault.adapters.objects_http.transport import Transport
from modelvault.client.session import Session
from support.homes import safetensors_bytes
from support.servers.stack import Stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    made = Stack(brokers=2, segment=64 << 10)
    yield made
    made.close()


@pytest.fixture
def name() -> str:
    return f"m-{secrets.token_hex(4)}"


@pytest.fixture
def session(stack: Stack) -> Iterator[Callable[..., Session]]:
    """Makes sessions of a token at a broker; they are closed at the end."""
    opened: list[Session] = []

    def connect(token: str, broker: int = 0) -> Session:
        made = stack.connect(token, broker)
        opened.append(made)
        return made

    yield connect
    for each in opened:
        each.close()


@pytest.fixture
def admin(stack: Stack, session: Callable[..., Session]) -> Session:
    return session(stack.admin())


def weights() -> dict[str, np.ndarray]:
    numbers = np.random.default_rng(7)
    return {
        "embed.weight": numbers.standard_normal((5000, 128), dtype=np.float32),
        "layer.0.bias": numbers.standard_normal((64,), dtype=np.float32),
        "steps": np.array([1, 2, 3], dtype=np.int64),
    }


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """2.5 MB of weights, in many segments, and a configuration."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(safetensors_bytes(weights()))
    (folder / "config.json").write_text('{"hidden_size": 64}')
    return folder


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all that this process puts to the store from now on."""
    sizes: list[int] = []
    real = Transport.put

    def put(self, link, body) -> int:
        sizes.append(len(body))
        return real(self, link, body)

    monkeypatch.setattr(Transport, "put", put)
    return sizes


@pytest.fixture
def check() -> Callable[[dict[str, np.ndarray]], None]:
    """Whether tensors are those of `model`."""

    def same(found: dict[str, np.ndarray]) -> None:
        wanted = weights()
        assert found.keys() == wanted.keys()
        for each, array in wanted.items():
            np.testing.assert_array_equal(found[each], array)

    return same
