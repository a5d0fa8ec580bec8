"""A tag followed through real brokers: moved at one, served by way of another."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from modelvault.client import lease_state
from modelvault.client.session import Session
from modelvault.errors import AccessDenied, ModelVaultError
from support.homes import safetensors_bytes
from support.servers.stack import Stack
from support.serving import until

VERSIONS = 3


@pytest.fixture
def pushed(admin: Session, name: str, tmp_path: Path) -> str:
    """Three versions, each of one number; `live` means the first."""
    admin.create(name, classification="internal")
    folder = tmp_path / "model"
    folder.mkdir()
    for version in range(1, VERSIONS + 1):
        for part in ("a", "b"):
            tensors = {part: np.full((300, 300), version, dtype=np.float32)}
            (folder / f"{part}.safetensors").write_bytes(safetensors_bytes(tensors))
        admin.push(folder, name)
    admin.tag(f"{name}@1", "live")
    return name


@pytest.fixture
def job(stack: Stack, tmp_path: Path) -> Iterator[Session]:
    token = stack.token("job", "inference")
    with stack.connect(token, 1, MODELVAULT_CACHE=str(tmp_path / "cache")) as made:
        yield made


@pytest.fixture
def renewed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases are renewed each half second, and not at two thirds of an hour."""
    begin, renewed = lease_state.begin, lease_state.renewed

    def soon(state: lease_state.LeaseState, asked_at: int) -> lease_state.LeaseState:
        return msgspec.structs.replace(state, renew_at=asked_at + 500)

    monkeypatch.setattr(
        lease_state, "begin", lambda asked_at, *told: soon(begin(asked_at, *told), asked_at)
    )
    monkeypatch.setattr(
        lease_state,
        "renewed",
        lambda state, asked_at, *told: soon(renewed(state, asked_at, *told), asked_at),
    )


def answer(live) -> int:
    with live.model() as model:
        found = {float(each.min()) for each in model.tensors().values()}
        found |= {float(each.max()) for each in model.tensors().values()}
        assert found == {model.manifest.version}
    return int(found.pop())


def test_it_moves_under_requests_and_while_a_broker_is_down(
    stack: Stack, admin: Session, job: Session, pushed: str
) -> None:
    stop = threading.Event()
    problems: list[BaseException] = []
    changes: list[str] = []
    answers: set[int] = set()

    def requests() -> None:
        try:
            while not stop.is_set():
                answers.add(answer(live))
        except BaseException as error:  # noqa: BLE001
            problems.append(error)

    with job.watch(
        f"{pushed}:live",
        purpose="inference",
        every_s=0.2,
        on_change=lambda _old, new: changes.append(new),
        on_error=problems.append,
    ) as live:
        threads = [threading.Thread(target=requests) for _ in range(3)]
        for each in threads:
            each.start()
        try:
            for version in (2, 3, 1):
                admin.tag(f"{pushed}@{version}", "live")
                until(lambda: live.name == f"{pushed}@{version}" or bool(problems), 30)  # noqa: B023
            until(lambda: len(admin.leases(reference=pushed)) == 1, 30)
            stack.brokers[1].stop()
            admin.tag(f"{pushed}@2", "live")
            before = len(changes)
            threading.Event().wait(1)
            assert len(changes) == before
            stack.brokers[1] = stack.broker(1)
            until(lambda: live.name == f"{pushed}@2" or bool(problems), 30)
        finally:
            stop.set()
            for each in threads:
                each.join()
        assert problems == []
        assert answers == {1, 2, 3}
        # The versions before were fetched once: moving back takes them from the cache.
        admin.tag(f"{pushed}@3", "live")
        until(lambda: live.name == f"{pushed}@3", 30)
        with live.model() as model:
            assert model.stats().costs.read_bytes.keys() == {"cache"}
        del model
    assert admin.leases(reference=pushed) == ()


def test_a_revocation_stops_it_until_the_tag_moves(
    admin: Session, job: Session, pushed: str, renewed_soon: None
) -> None:
    told: list[Exception] = []
    with job.watch(
        f"{pushed}:live", purpose="inference", every_s=0.2, on_error=told.append
    ) as live:
        assert answer(live) == 1
        admin.revoke(kind="version", target=f"{pushed}@1", reason="leaked")
        until(lambda: not live.ready and bool(told), 30)
        with pytest.raises(AccessDenied):
            answer(live)
        admin.tag(f"{pushed}@2", "live")
        until(lambda: live.ready and live.name == f"{pushed}@2", 30)
        assert answer(live) == 2
    assert {error.code for error in told if isinstance(error, ModelVaultError)} <= {
        "revoked", "version_revoked", "lease_revoked", "lease_ended",
    }  # fmt: skip
    assert told
