"""The whole walk through a real embedded vault: real keys, ledger, policies and files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from modelvault import connect, wiring
from modelvault.errors import AccessDenied, AuthenticationError, Conflict, NotFound
from support.homes import isolated, safetensors_bytes


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return isolated(tmp_path, monkeypatch)


def weights() -> dict[str, np.ndarray]:
    numbers = np.random.default_rng(7)
    return {
        "embed.weight": numbers.standard_normal((500, 64), dtype=np.float32),
        "layer.0.bias": numbers.standard_normal((64,), dtype=np.float32).astype(np.float16),
        "steps": np.array([1, 2, 3], dtype=np.int64),
    }


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "minilm"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(safetensors_bytes(weights()))
    (folder / "config.json").write_text(json.dumps({"hidden_size": 64}))
    return folder


def check(found: dict[str, np.ndarray]) -> None:
    wanted = weights()
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_the_walk(home: Path, model: Path) -> None:
    made = wiring.init()
    assert (made.home, home.exists()) == (home, True)
    with connect() as vault:
        vault.create("minilm", classification="internal")
        pushed = vault.push(model, "minilm:prod", labels={"team": "search"})
        assert (pushed.version, pushed.tag) == (1, "prod")

        with vault.load("minilm:prod", purpose="inference") as loaded:
            check(loaded.tensors())
            assert json.loads(loaded.open("config.json").read()) == {"hidden_size": 64}

        assert vault.rotate("minilm").kek_version == 2
        with vault.load("minilm:prod", purpose="inference") as loaded:
            check(loaded.tensors())

        with pytest.raises(AccessDenied):
            vault.load("minilm:prod", purpose="world-domination")

        vault.revoke("version", "default/minilm@1", reason="test")
        with pytest.raises(AccessDenied) as caught:
            vault.load("minilm:prod", purpose="inference")
        assert caught.value.code == "revoked"

        actions = {entry.action for entry in vault.entries().entries}
        assert {"init", "create", "push", "load", "rotate", "revoke"} <= actions


def test_the_vault_lasts_longer_than_its_process(home: Path, model: Path) -> None:
    wiring.init()
    with connect() as vault:
        vault.create("m")
        vault.push(model, "m:a")
    with connect() as vault, vault.load("m:a", purpose="inference") as loaded:
        check(loaded.tensors())
        (summary,) = vault.list()
        assert (summary.model, summary.latest) == ("m", 1)


def test_identities(home: Path, model: Path) -> None:
    wiring.init(user="boss")
    with connect() as vault:
        vault.create("m")
        vault.push(model, "m")
        assert vault.whoami().id == "local:boss"
        reader = vault.mint_token(sub="job", groups=["inference"])
        stranger = vault.mint_token(sub="stranger")
        with pytest.raises(Conflict):
            vault.create("m")
    with connect(token=reader) as vault:
        assert vault.whoami().groups == ("local:inference",)
        with vault.load("m", purpose="inference") as loaded:
            check(loaded.tensors())
        with pytest.raises(AccessDenied):
            vault.push(model, "m")
        with pytest.raises(AccessDenied):
            vault.load("m", purpose="export")
    with connect(token=stranger) as vault, pytest.raises(NotFound):
        vault.load("m", purpose="inference")
    with connect(token="not.a.token") as vault, pytest.raises(AuthenticationError):
        vault.whoami()


def test_export_pull_and_gc(home: Path, model: Path, tmp_path: Path) -> None:
    wiring.init()
    with connect() as vault:
        vault.create("m")
        vault.push(model, "m")
        vault.export("m", tmp_path / "plain")
        for name in ("config.json", "model.safetensors"):
            assert (tmp_path / "plain" / name).read_bytes() == (model / name).read_bytes()
        vault.pull("m", tmp_path / "cipher")
        assert vault.gc(dry_run=True).objects == 0
        vault.delete("m@1")
        with pytest.raises(NotFound):
            vault.load("m", purpose="inference")


def test_a_token_in_a_file(
    home: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wiring.init()
    with connect() as vault:
        first, second = (vault.mint_token(sub=name, groups=["admins"]) for name in ("a", "b"))
    path = tmp_path / "token"
    path.write_text(first)
    monkeypatch.setenv("MODELVAULT_TOKEN_FILE", str(path))
    with connect() as vault:
        assert vault.whoami().id == "local:a"
        path.write_text(second + "\n")
        assert vault.whoami().id == "local:b"


def test_a_restricted_model_needs_a_token_bound_to_the_key(
    home: Path, model: Path, tmp_path: Path
) -> None:
    wiring.init()
    with connect() as vault:
        vault.create("secret", classification="restricted")
        vault.push(model, "secret")
        with vault.load("secret", purpose="inference") as loaded:  # the home mints bound tokens
            assert loaded.obligations.memory_only
            check(loaded.tensors())
        with pytest.raises(AccessDenied):
            vault.export("secret", tmp_path / "out")
        assert not (tmp_path / "out").exists()
        bearer = vault.mint_token(groups=["admins"])
    with connect(token=bearer) as vault, pytest.raises(AccessDenied):
        vault.load("secret", purpose="inference")


def test_an_edited_policy_counts_once_it_is_published(home: Path, model: Path) -> None:
    made = wiring.init()
    data = home / "policy" / "data.json"
    with connect() as vault:
        vault.create("m")
        vault.push(model, "m")
        text = data.read_text().replace('"purposes": ["*"]', '"purposes": ["evaluation"]')
        data.write_text(text)
        with vault.load("m", purpose="inference"):
            pass
        assert vault.publish_policy() != made.policy_revision
        with pytest.raises(AccessDenied):
            vault.load("m", purpose="inference")
        with vault.load("m", purpose="evaluation"):
            pass
    with connect() as vault, pytest.raises(AccessDenied):
        vault.load("m", purpose="inference")
