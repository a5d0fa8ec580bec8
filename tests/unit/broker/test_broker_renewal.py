"""Renewals: a new decision each time, never the key service; an outage ends nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from modelvault.catalog import LeaseRow, Standing
from modelvault.errors import AccessDenied, AuthenticationError, NotFound, Unavailable
from modelvault.identity.binding import key_hash
from modelvault.manifest import Hints
from support.vaults import Job, Vault, allow, deny, obligation

FILES = {"a.bin": b"a" * 100, "b.pt": b"b"}


@pytest.fixture
def held(vault: Vault) -> tuple[Vault, Job]:
    vault.push("m", FILES, hints=Hints(pickles=("b.pt",)))
    vault.policy.rule = rule()
    return vault, vault.lease("m")


def rule(*obligations: dict[str, object], pickle: bool = True) -> Any:
    return lambda _d: allow(obligation("allow_pickle", pickle), *obligations)


def renew(vault: Vault, job: Job, sub: str = "alice") -> Any:
    return vault.broker.renew(vault.caller(sub), job.lease.id, job.key_hash)


def test_renewed_many_times(held: tuple[Vault, Job]) -> None:
    vault, job = held
    unwrapped = vault.keys.count("unwrap")
    for _ in range(5):
        vault.clock.advance(600)
        renewal = renew(vault, job)
        assert renewal.ttl_s == 900
        assert vault.ledger.lease(job.lease.id).expires_at == vault.clock() + 900_000
    assert vault.keys.count("unwrap") == unwrapped
    assert [one.outcome for one in vault.entries("renew")] == ["allowed"] * 5
    asked = vault.policy.asked[-1]
    assert asked["action"]["name"] == "renew"
    assert asked["context"]["purpose"] == "inference"
    assert asked["resource"]["files"] == ["a.bin", "b.pt"]


def test_max_total_counts_from_the_first_grant(vault: Vault) -> None:
    vault.push("m", {"a": b"a"})
    vault.policy.rule = rule(obligation("max_total_s", 1000), obligation("max_ttl_s", 600))
    job = vault.lease("m")
    vault.clock.advance(500)
    assert renew(vault, job).ttl_s == 500
    vault.clock.advance(499.5)
    with pytest.raises(AccessDenied) as caught:
        renew(vault, job)
    assert caught.value.code == "max_total_s"
    assert vault.ledger.lease(job.lease.id).end_reason == "max_total_s"


@pytest.mark.parametrize(("total", "ttl"), [(800, 700), (10**6, 900)])
def test_a_policy_that_became_stricter_counts(
    held: tuple[Vault, Job], total: int, ttl: int
) -> None:
    vault, job = held
    vault.clock.advance(100)
    vault.policy.rule = rule(obligation("max_total_s", total))
    renewal = renew(vault, job)
    assert (renewal.ttl_s, renewal.obligations.max_total_s) == (ttl, total)


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        (lambda d: deny("left") if d["action"]["name"] == "renew" else allow(), "denied"),
        (lambda _d: deny("left"), "denied"),
        (rule(obligation("files", ["a*"])), "files_not_allowed"),
        (rule(pickle=False), "pickle_refused"),
        (rule(obligation("max_total_s", 50)), "max_total_s"),
        (rule(obligation("dance", 1)), "obligation_unfulfillable"),
    ],
)
def test_a_deny_ends_the_lease(held: tuple[Vault, Job], changed: Any, code: str) -> None:
    vault, job = held
    vault.clock.advance(100)
    vault.policy.rule = changed
    with pytest.raises(AccessDenied) as caught:
        renew(vault, job)
    assert caught.value.code == code
    assert caught.value.details["action"] == "renew"
    row = vault.ledger.lease(job.lease.id)
    assert row.ended_at == vault.clock()
    entry = vault.entries("renew")[-1]
    assert (entry.outcome, entry.lease) == ("denied", job.lease.id)
    with pytest.raises(AccessDenied) as again:
        renew(vault, job)
    assert again.value.code == "lease_ended"
    assert len(vault.entries("renew")) == 1


@pytest.mark.parametrize(
    ("kind", "target"), [("principal", "local:alice"), ("version", "m@1"), ("lease", None)]
)
def test_a_revocation_is_learnt_at_the_next_renewal(
    held: tuple[Vault, Job], kind: str, target: str | None
) -> None:
    vault, job = held
    ended = vault.broker.revoke(
        vault.caller("root"), kind=kind, target=target or job.lease.id, reason="leak"
    )
    assert ended == 1
    with pytest.raises(AccessDenied) as caught:
        renew(vault, job)
    assert caught.value.code == "revoked"


def test_a_revocation_in_the_last_moment(held: tuple[Vault, Job]) -> None:
    vault, job = held

    def revoke(name: str) -> None:
        if name == "extend":
            vault.ledger.before = lambda _name: None
            vault.broker.revoke(
                vault.caller("root"), kind="principal", target="local:alice", reason="x"
            )

    vault.ledger.before = revoke
    with pytest.raises(AccessDenied) as caught:
        renew(vault, job)
    assert caught.value.code == "revoked"
    assert vault.entries()[-1].reasons == ("revoked",)


def test_after_its_end(held: tuple[Vault, Job]) -> None:
    vault, job = held
    vault.clock.advance(901)
    with pytest.raises(AccessDenied) as caught:
        renew(vault, job)
    assert caught.value.code == "lease_ended"


def test_late_within_the_grace_of_an_outage(held: tuple[Vault, Job]) -> None:
    vault, job = held
    vault.policy.rule = rule(obligation("grace_s", 300))
    vault.clock.advance(900 + 299)
    assert renew(vault, job).ttl_s == 900
    vault.clock.advance(900 + 300)
    with pytest.raises(AccessDenied) as caught:
        renew(vault, job)
    assert caught.value.code == "lease_ended"


@pytest.mark.parametrize("part", ["policy", "policy revision", "ledger"])
def test_an_outage_ends_nothing(held: tuple[Vault, Job], part: str) -> None:
    vault, job = held

    def away(*_args: object) -> Any:
        raise Unavailable("away", "away")

    if part == "policy":
        vault.policy.rule = away
    elif part == "policy revision":
        vault.policy.revision = "sha256:" + "09" * 32
    else:
        vault.ledger.before = away
    with pytest.raises(Unavailable):
        renew(vault, job)
    vault.ledger.before = lambda _name: None
    vault.policy.rule, vault.policy.revision = rule(), "sha256:" + "01" * 32
    assert renew(vault, job).ttl_s == 900


def test_only_by_its_subject_with_its_key(held: tuple[Vault, Job]) -> None:
    vault, job = held
    with pytest.raises(NotFound):
        renew(vault, job, sub="bob")
    with pytest.raises(NotFound):
        vault.broker.renew(vault.caller(), job.lease.id, "A" * 43)
    with pytest.raises(NotFound):
        vault.broker.renew(vault.caller(), "0" * 32, job.key_hash)
    assert vault.ledger.lease(job.lease.id).ended_at is None


def test_a_lease_by_a_bound_token_needs_a_bound_token(vault: Vault) -> None:
    vault.push("m", {"a": b"a"})
    ask, key = vault.ask("m")
    hashed = key_hash(key.suite, key.public)
    lease = vault.broker.lease(vault.caller(bound_to=hashed), ask)
    vault.broker.renew(vault.caller(bound_to=hashed), lease.id, hashed)
    with pytest.raises(AuthenticationError):
        vault.broker.renew(vault.caller(bound_to="A" * 43), lease.id, hashed)
    with pytest.raises(AccessDenied) as caught:
        vault.broker.renew(vault.caller(), lease.id, hashed)
    assert caught.value.code == "key_bound_token_required"


def test_an_expired_token_ends_no_lease(held: tuple[Vault, Job]) -> None:
    vault, job = held
    old = vault.caller()
    vault.clock.advance(800)
    with pytest.raises(AuthenticationError):
        vault.broker.renew(old, job.lease.id, job.key_hash)
    assert renew(vault, job).ttl_s == 900


@pytest.mark.parametrize("what", ["m@1", "m"])
def test_tidying_up_stops_no_job(held: tuple[Vault, Job], what: str) -> None:
    vault, job = held
    vault.broker.delete(vault.caller(), what)
    assert renew(vault, job).ttl_s == 900
    assert vault.read(job) == FILES


def test_release(held: tuple[Vault, Job]) -> None:
    vault, job = held
    with pytest.raises(NotFound):
        vault.broker.release(vault.caller("bob"), job.lease.id)
    with pytest.raises(NotFound):
        vault.broker.release(vault.caller(), "0" * 32)
    for _ in range(2):
        vault.broker.release(vault.caller(), job.lease.id)
    assert vault.ledger.lease(job.lease.id).end_reason == "released"
    assert len(vault.entries("release")) == 1
    with pytest.raises(AccessDenied) as caught:
        renew(vault, job)
    assert caught.value.code == "lease_ended"


def test_release_by_the_bound_token(vault: Vault) -> None:
    vault.push("m", {"a": b"a"})
    ask, key = vault.ask("m")
    bound = vault.caller(bound_to=key_hash(key.suite, key.public))
    lease = vault.broker.lease(bound, ask)
    vault.broker.release(bound, lease.id)
    assert vault.ledger.lease(lease.id).end_reason == "released"


def test_a_lease_whose_version_is_another_now(
    held: tuple[Vault, Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    vault, job = held
    vault.push("m", FILES)
    other = vault.ledger.version("default", "m", 2)
    real = vault.ledger.leased

    def moved(lease: str) -> tuple[LeaseRow, Standing]:
        row, seen = real(lease)
        return row, msgspec.structs.replace(seen, version=other)

    monkeypatch.setattr(vault.ledger, "leased", moved, raising=False)
    with pytest.raises(NotFound):
        renew(vault, job)
