"""The cache before a real store, behind real brokers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelvault.adapters.objects_http.transport import Transport
from modelvault.adapters.objects_s3 import S3Store
from modelvault.client.session import Session
from modelvault.errors import AccessDenied, IntegrityError, NotFound
from support.servers.stack import Stack


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def job(stack: Stack, place: Path) -> Callable[..., object]:
    """Sessions that share a cache, each for one `with`."""

    @contextmanager
    def connected(broker: int = 0) -> Iterator[Session]:
        token = stack.token("job", "inference")
        with stack.connect(token, broker, MODELVAULT_CACHE=str(place)) as made:
            yield made

    return connected


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all that this process asks of the store from now on."""
    sizes: list[int] = []
    real = Transport.get

    def get(self, link, first, last):
        sizes.append(last - first + 1)
        return real(self, link, first, last)

    monkeypatch.setattr(Transport, "get", get)
    return sizes


@pytest.fixture
def pushed(admin: Session, name: str, model: Path) -> str:
    admin.create(name, classification="internal")
    admin.push(model, f"{name}:prod")
    return name


def read(loaded, check) -> dict[str, int]:
    check(loaded.tensors())
    with loaded.read_bytes("config.json") as view:
        assert bytes(view) == b'{"hidden_size": 64}'
    return dict(loaded.stats().costs.read_bytes)


def test_a_second_load_fetches_nothing(pushed, job, check, asked) -> None:
    with job() as vault, vault.load(f"{pushed}:prod", purpose="inference") as loaded:
        first = read(loaded, check)
        assert loaded.stats().costs.seconds["keep"] > 0
    assert first.keys() == {"object_store"}
    assert first["object_store"] >= loaded.size
    assert sum(asked) >= loaded.size
    asked.clear()
    for broker in (0, 1):
        with job(broker) as vault, vault.load(f"{pushed}:prod", purpose="inference") as loaded:
            assert read(loaded, check) == {"cache": first["object_store"]}
    assert asked == []


def test_an_unchanged_file_of_a_later_version_comes_from_it(
    pushed, job, check, asked, admin, model
) -> None:
    with job() as vault, vault.load(f"{pushed}@1", purpose="inference") as loaded:
        read(loaded, check)
    (model / "config.json").write_text('{"hidden_size": 65}')
    admin.push(model, f"{pushed}:prod")
    asked.clear()
    with job() as vault, vault.load(f"{pushed}@2", purpose="inference") as loaded:
        check(loaded.tensors())
        assert loaded.stats().costs.read_bytes.keys() == {"cache"}
        assert asked == []
        with loaded.read_bytes("config.json") as view:
            assert bytes(view) == b'{"hidden_size": 65}'
        assert sum(asked) < 1000


def test_one_tensor_keeps_its_own_pieces(pushed, job, check, asked) -> None:
    with job() as vault, vault.load(pushed, purpose="inference") as loaded:
        assert loaded.tensor("layer.0.bias").shape == (64,)
    some = sum(asked)
    assert some < loaded.size // 4
    asked.clear()
    with job() as vault, vault.load(pushed, purpose="inference") as loaded:
        assert loaded.tensor("layer.0.bias").shape == (64,)
        assert asked == []
        check(loaded.tensors())
    assert loaded.size - some <= sum(asked) < loaded.size


def test_without_a_lease_it_is_no_use(pushed, job, check, admin, stack, place, asked) -> None:
    """A version that was revoked can't be loaded from it, nor by somebody who may not."""
    with job() as vault, vault.load(pushed, purpose="inference") as loaded:
        read(loaded, check)
    stranger = stack.token("stranger")
    with (
        stack.connect(stranger, MODELVAULT_CACHE=str(place)) as vault,
        pytest.raises((AccessDenied, NotFound)),
    ):
        vault.load(pushed, purpose="inference")
    admin.revoke(kind="version", target=f"{pushed}@1", reason="leaked")
    with job() as vault, pytest.raises(AccessDenied):
        vault.load(f"{pushed}@1", purpose="inference")


def test_damage_is_fetched_anew(pushed, job, check, place, asked) -> None:
    with job() as vault, vault.load(pushed, purpose="inference") as loaded:
        read(loaded, check)
    largest = max(place.iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    asked.clear()
    with job() as vault, vault.load(pushed, purpose="inference") as loaded:
        read(loaded, check)
    assert sum(asked) == 64 << 10
    asked.clear()
    with job() as vault, vault.load(pushed, purpose="inference") as loaded:
        read(loaded, check)
    assert asked == []


def test_the_store_is_checked_where_the_cache_has_nothing(stack, pushed, job, check, place) -> None:
    """What is wrong at the store is told, cache or not; what was kept before is still right."""
    with job() as vault, vault.load(pushed, purpose="inference") as loaded:
        read(loaded, check)
        entry = loaded.manifest.file("config.json")
    store = S3Store(stack.s3.bucket(prefix=stack.prefix))
    store.delete(entry.object)
    store.close()
    with job() as vault, vault.load(pushed, purpose="inference") as loaded:
        read(loaded, check)
    for path in place.iterdir():
        path.unlink()
    with (
        job() as vault,
        vault.load(pushed, purpose="inference") as loaded,
        pytest.raises(IntegrityError) as caught,
    ):
        loaded.read_bytes("config.json")
    assert caught.value.code == "missing_object"


def test_the_command(stack, pushed, place) -> None:
    """By --cache and a bound of the environment."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(place.parent),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "MODELVAULT_CA": str(stack.ca),
        "MODELVAULT_TRUST": str(stack.trust),
        "MODELVAULT_TOKEN": stack.token("job", "inference"),
        "MODELVAULT_CACHE_SIZE": "64MiB",
    }
    line = [
        str(Path(sys.executable).with_name("modelvault")), "--broker", stack.urls[0],
        "load", f"{pushed}:prod", "-p", "inference", "--cache", str(place),
    ]  # fmt: skip
    for _ in range(2):
        done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert len(list(place.iterdir())) == 2
