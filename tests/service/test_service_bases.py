"""An adapter and its base through real brokers: a decision and a lease for each, over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from modelvault.client.session import Session
from modelvault.errors import AccessDenied, NotFound
from modelvault.manifest import Provenance
from support.homes import safetensors_bytes
from support.servers.stack import Stack

LORA = {"lora_A": np.ones((8, 128), "f4")}
Job = Callable[..., Session]


@pytest.fixture
def pair(admin: Session, name: str, model: Path, tmp_path: Path) -> tuple[str, str]:
    """The names of a base and of an adapter that was pushed with its base's digest."""
    base, adapter = f"{name}-base", f"{name}-adapter"
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_model.safetensors").write_bytes(safetensors_bytes(LORA))
    for each in (base, adapter):
        admin.create(each, classification="internal")
    admin.push(model, f"{base}:prod")
    told = admin.based_on(f"{base}:prod")
    admin.push(tmp_path / "adapter", f"{adapter}:prod", provenance=told)
    return base, adapter


@pytest.fixture
def job(stack: Stack, session: Job) -> Callable[[int], Session]:
    return lambda broker: session(stack.token("job", "inference"), broker)


def leases(admin: Session, *names: str) -> list[str]:
    return [lease.id for name in names for lease in admin.leases(name)]


@pytest.mark.parametrize("broker", [0, 1])
def test_both_are_loaded_by_name_and_by_digest(
    admin: Session,
    job: Callable[[int], Session],
    pair: tuple[str, str],
    check: Callable[..., None],
    model: Path,
    broker: int,
) -> None:
    base, adapter = pair
    (model / "config.json").write_text('{"hidden_size": 65}')
    admin.push(model, f"{base}:prod")  # the tag moves on: the adapter's base is version 1
    with job(broker).load_with_base(f"{adapter}:prod", purpose="inference") as both:
        assert (both.adapter.name, both.base.name) == (f"{adapter}@1", f"{base}@1")
        check(both.base.tensors())
        np.testing.assert_array_equal(both.adapter.tensors()["lora_A"], LORA["lora_A"])
        assert len(set(leases(admin, *pair))) == 2
    assert leases(admin, *pair) == []
    granted = {
        each: [
            entry.decision_id
            for entry in admin.entries(reference=each).entries
            if entry.action == "load" and entry.outcome == "allowed"
        ]
        for each in pair
    }
    assert [len(decisions) for decisions in granted.values()] == [1, 1]
    assert granted[base] != granted[adapter]


def test_a_base_that_is_denied_gives_the_adapters_lease_back(
    admin: Session, job: Callable[[int], Session], pair: tuple[str, str]
) -> None:
    base, adapter = pair
    admin.revoke(kind="version", target=f"{base}@1", reason="leaked")
    with pytest.raises(AccessDenied, match=f"the base of {adapter}@1, {base}@1") as caught:
        job(0).load_with_base(f"{adapter}:prod", purpose="inference")
    assert caught.value.code == "revoked"
    assert leases(admin, *pair) == []


def test_a_base_that_isnt_there(
    admin: Session, job: Callable[[int], Session], pair: tuple[str, str], model: Path
) -> None:
    base, adapter = pair
    gone = Provenance(base=f"{base}@1", base_digest="sha256:" + "0" * 64)
    admin.push(model, f"{adapter}:odd", provenance=gone)
    with pytest.raises(NotFound) as caught:
        job(1).load_with_base(f"{adapter}:odd", purpose="inference")
    assert caught.value.code == "base_gone"
    assert leases(admin, *pair) == []
