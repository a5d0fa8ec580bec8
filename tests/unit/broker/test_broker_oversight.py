"""revoke, leases, explain, entries and the publication of policies."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from modelvault.access import Principal
from modelvault.catalog import Standing
from modelvault.errors import AccessDenied, Conflict, InvalidRequest, NotFound, Unavailable
from support.vaults import Vault, allow, deny, obligation

FILES = {"a.bin": b"a" * 100}
OTHER = "sha256:" + "02" * 32


@pytest.fixture
def stocked(vault: Vault) -> Vault:
    vault.create("n")
    for name in "mn":
        vault.push(name, FILES)
    vault.keys.calls.clear()
    return vault


def principal(sub: str) -> Principal:
    return Principal(
        id=f"local:{sub}", issuer="local", groups=(), claims={}, issued_at=0, expires_at=1
    )


def without(action: str) -> Any:
    return lambda d: deny("no") if d["action"]["name"] == action else allow()


# revoke


def test_revoke_a_principal(stocked: Vault) -> None:
    jobs = [stocked.lease(name, caller=stocked.caller("bob")) for name in "mmn"]
    mine = stocked.lease("m")
    ended = stocked.broker.revoke(
        stocked.caller(), kind="principal", target="local:bob", reason="left"
    )
    assert ended == 3
    rows = [stocked.ledger.lease(job.lease.id) for job in jobs]
    assert {row.end_reason for row in rows} == {"revoked"}
    assert stocked.ledger.lease(mine.lease.id).ended_at is None
    entry = stocked.entries("revoke")[-1]
    assert (entry.tenant, entry.model) == (None, None)
    assert entry.details["target"] == "local:bob"
    asked = next(d for d in stocked.policy.asked[::-1] if d["action"]["name"] == "revoke")
    assert (asked["resource"]["tenant"], asked["resource"]["id"]) == ("*", "*")


@pytest.mark.parametrize("for_s", [None, 60])
def test_nobody_revokes_themselves(stocked: Vault, for_s: int | None) -> None:
    job = stocked.lease("m")
    with pytest.raises(Conflict) as caught:
        stocked.broker.revoke(
            stocked.caller(), kind="principal", target="local:alice", reason="x", for_s=for_s
        )
    assert caught.value.code == "revokes_yourself"
    assert "another admin" in caught.value.hint
    assert stocked.ledger.lease(job.lease.id).ended_at is None
    assert stocked.entries("revoke") == []
    stocked.broker.list(stocked.caller(), tenant="default", filter="", limit=1, after="")


@pytest.mark.parametrize(
    ("kind", "target", "for_s", "told"),
    [
        ("principal", "local:bob", None, "another identity"),
        ("principal", "local:bob", 60, "ends by itself at"),
        ("version", "m@1", None, "name another version"),
    ],
)
@pytest.mark.parametrize("asks", ["load", "show"])
def test_what_lifts_a_revocation(
    stocked: Vault, kind: str, target: str, for_s: int | None, told: str, asks: str
) -> None:
    stocked.broker.revoke(stocked.caller(), kind=kind, target=target, reason="x", for_s=for_s)
    bob = stocked.caller("bob")
    if asks == "show" and kind == "version":
        assert stocked.broker.show(bob, target).versions[0].revoked_at is not None
        return
    with pytest.raises(AccessDenied) as caught:
        stocked.lease("m", caller=bob) if asks == "load" else stocked.broker.show(bob, "m")
    assert caught.value.code == "revoked"
    assert told in caught.value.hint


def test_revoke_a_version(stocked: Vault) -> None:
    stocked.broker.tag(stocked.caller(), "m", "prod")
    job = stocked.lease("m")
    stocked.lease("n")
    assert (
        stocked.broker.revoke(stocked.caller(), kind="version", target="m:prod", reason="bad") == 1
    )
    assert stocked.ledger.lease(job.lease.id).end_reason == "revoked"
    assert stocked.entries("revoke")[-1].details["target"] == "default/m@1"
    stocked.push("m", FILES)
    assert stocked.lease("m").lease.version == 2


def test_revoke_a_lease(stocked: Vault) -> None:
    job = stocked.lease("m")
    other = stocked.lease("m")
    stocked.broker.revoke(stocked.caller(), kind="lease", target=job.lease.id, reason="x")
    assert stocked.ledger.lease(other.lease.id).ended_at is None
    assert stocked.entries("revoke")[-1].lease == job.lease.id
    stocked.lease("m")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"kind": "model", "target": "m", "reason": "x"}, "bad_kind"),
        ({"kind": "principal", "target": "", "reason": "x"}, "bad_text"),
        ({"kind": "principal", "target": "a\nb", "reason": "x"}, "bad_text"),
        ({"kind": "principal", "target": "a", "reason": "x" * 513}, "bad_text"),
        ({"kind": "principal", "target": "a", "reason": "x", "for_s": 0}, "bad_duration"),
        ({"kind": "version", "target": "m@1", "reason": "x", "for_s": 9}, "bad_duration"),
    ],
)
def test_revoke_refuses(stocked: Vault, options: dict[str, Any], code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        stocked.broker.revoke(stocked.caller(), **options)
    assert caught.value.code == code


@pytest.mark.parametrize(("kind", "target"), [("lease", "0" * 32), ("version", "m@9")])
def test_revoke_what_isnt_there(stocked: Vault, kind: str, target: str) -> None:
    with pytest.raises(NotFound):
        stocked.broker.revoke(stocked.caller(), kind=kind, target=target, reason="x")


@pytest.mark.parametrize("kind", ["principal", "lease", "version", "no lease"])
def test_revoke_denied(stocked: Vault, kind: str) -> None:
    job = stocked.lease("m")
    stocked.policy.rule = without("revoke")
    target = {"principal": "local:alice", "lease": job.lease.id, "version": "m@1"}.get(kind, "0")
    with pytest.raises(AccessDenied):
        stocked.broker.revoke(
            stocked.caller(), kind=kind.rsplit(maxsplit=1)[-1], target=target, reason="x"
        )
    assert stocked.ledger.lease(job.lease.id).ended_at is None


# leases and entries


def test_leases(stocked: Vault) -> None:
    jobs = [stocked.lease(name) for name in "mn"]
    stocked.broker.release(stocked.caller(), jobs[1].lease.id)
    running = stocked.broker.leases(stocked.caller())
    assert [one.id for one in running] == [jobs[0].lease.id]
    assert (running[0].subject, running[0].purpose, running[0].bytes) == (
        "local:alice", "inference", 100,
    )  # fmt: skip
    everything = stocked.broker.leases(stocked.caller(), ended=True)
    assert {one.id for one in everything} == {job.lease.id for job in jobs}
    assert {one.end_reason for one in everything} == {None, "released"}
    of_n = stocked.broker.leases(stocked.caller(), reference="n", ended=True)
    assert [one.model for one in of_n] == ["n"]
    with pytest.raises(InvalidRequest):
        stocked.broker.leases(stocked.caller(), reference="n@1")


def test_entries(stocked: Vault) -> None:
    page = stocked.broker.entries(stocked.caller(), limit=3)
    assert ([one.seq for one in page.entries], page.next) == ([1, 2, 3], 3)
    rest = stocked.broker.entries(stocked.caller(), after=3)
    assert rest.next is None
    assert rest.entries[0].seq == 4
    of_n = stocked.broker.entries(stocked.caller(), reference="n")
    assert {one.model for one in of_n.entries} == {"n"}


def test_the_whole_vaults_log_needs_a_grant_for_all(stocked: Vault) -> None:
    """Who owns one model reads its entries and leases, and nobody else's."""
    stocked.policy.rule = lambda d: allow() if d["resource"]["id"] == "n" else deny("no")
    stocked.broker.entries(stocked.caller(), reference="n")
    stocked.broker.leases(stocked.caller(), reference="n")
    stocked.broker.last_entries(stocked.caller(), reference="n")
    for call in (stocked.broker.entries, stocked.broker.last_entries, stocked.broker.leases):
        with pytest.raises(AccessDenied):
            call(stocked.caller())
        with pytest.raises(NotFound):
            call(stocked.caller(), reference="m")


# explain


def explain(vault: Vault, sub: str = "alice", **options: Any) -> Any:
    asked = {"action": "load", "reference": "m", "purpose": "inference", "subject": None}
    return vault.broker.explain(vault.caller(sub), **(asked | options))


def test_explain_grants_nothing(stocked: Vault) -> None:
    stocked.policy.rule = lambda d: (
        allow(obligation("max_ttl_s", 60)) if d["action"]["name"] == "load" else allow()
    )
    told = explain(stocked)
    assert (told.allowed, told.reasons, told.obligations.max_ttl_s) == (True, ("grant:test",), 60)
    assert stocked.keys.count("unwrap") == 0
    assert stocked.ledger.leases() == []
    entry = stocked.entries("explain")[-1]
    assert entry.details == {
        "about": "local:alice",
        "explained": "load",
        "for_purpose": "inference",
        "destination": None,
        "allowed": True,
    }


def test_explain_for_another(stocked: Vault) -> None:
    stocked.policy.rule = lambda d: deny("no") if d["subject"]["id"] == "local:bob" else allow()
    told = explain(stocked, subject=principal("bob"))
    assert (told.allowed, told.reasons) == (False, ("no",))
    assert stocked.entries("explain")[-1].details["about"] == "local:bob"


def test_explain_for_oneself_needs_no_permission(stocked: Vault) -> None:
    stocked.policy.rule = without("explain")
    assert explain(stocked).allowed
    assert explain(stocked, subject=principal("alice")).allowed
    with pytest.raises(AccessDenied) as caught:
        explain(stocked, subject=principal("bob"))
    assert caught.value.details["action"] == "explain"


def test_explain_of_what_may_not_be_seen(stocked: Vault) -> None:
    stocked.policy.rule = lambda _d: deny("no")
    with pytest.raises(NotFound):
        explain(stocked)


def test_explain_a_claim_that_lies(stocked: Vault) -> None:
    """Of oneself it explains what the token says, not what the caller writes down."""
    made = principal("alice")
    stocked.policy.rule = lambda d: allow() if d["subject"]["groups"] else deny("no_groups")
    assert explain(stocked, subject=made).allowed


def test_explain_versions_and_models(stocked: Vault) -> None:
    stocked.create("empty")
    explain(stocked, action="push", reference="empty", purpose=None)
    assert stocked.policy.asked[-1]["resource"]["version"] is None
    explain(stocked, reference="m@1")
    assert stocked.policy.asked[-1]["resource"]["version"] == 1
    for absent in ("m@9", "x"):
        with pytest.raises(NotFound):
            explain(stocked, reference=absent)
    for options, code in (
        ({"action": "fly"}, "bad_action"),
        ({"purpose": "a\nb"}, "bad_text"),
        ({"subject": msgspec.structs.replace(principal("bob"), groups=7)}, "bad_document"),
        ({"subject": msgspec.structs.replace(principal("b"), claims={"x": object()})},
         "bad_document"),
    ):  # fmt: skip
        with pytest.raises(InvalidRequest) as caught:
            explain(stocked, **options)
        assert caught.value.code == code


# publish_policy


def test_publish_a_policy(stocked: Vault) -> None:
    fresh = stocked.publish(without("load"), OTHER)
    stocked.broker.publish_policy(stocked.caller(), OTHER)
    assert stocked.ledger.policy_revision() == OTHER
    assert fresh.closed  # the candidate was tried and let go
    entry = stocked.entries("write_policy")[-1]
    assert entry.details["new_revision"] == OTHER
    with pytest.raises(AccessDenied):
        stocked.lease("m")
    other = stocked.another_broker()  # and every other broker follows
    with pytest.raises(AccessDenied):
        stocked.lease("m", broker=other)


def test_engines_are_closed_one_generation_late(stocked: Vault) -> None:
    first = stocked.policy
    engines = [stocked.publish(lambda _d: allow(), f"sha256:{n:064x}") for n in (2, 3)]
    for engine in engines:
        stocked.broker.publish_policy(stocked.caller(), engine.revision)
        engine.closed = False
        stocked.lease("m")
        assert [one.closed for one in (first, *engines)] == [
            engine is engines[1], False, False,
        ]  # fmt: skip
    stocked.broker.close()
    assert all(one.closed for one in engines)


@pytest.mark.parametrize(
    "broken",
    [
        lambda _d: None,
        lambda _d: "yes",
        lambda d: {"decision": True} if d["action"]["name"] == "load" else allow(),
        lambda d: None if d["action"]["name"] == "renew" else allow(),
        lambda d: None if d["action"]["name"] == "write_policy" else allow(),
    ],
)
def test_a_policy_that_gives_no_answer(stocked: Vault, broken: Any) -> None:
    stocked.publish(broken, OTHER)
    with pytest.raises(InvalidRequest) as caught:
        stocked.broker.publish_policy(stocked.caller(), OTHER)
    assert caught.value.code == "policy_unusable"
    assert stocked.ledger.policy_revision() != OTHER
    stocked.lease("m")


def test_a_policy_that_locks_its_writer_out(stocked: Vault) -> None:
    stocked.publish(without("write_policy"), OTHER)
    with pytest.raises(Conflict) as caught:
        stocked.broker.publish_policy(stocked.caller(), OTHER)
    assert caught.value.code == "policy_lockout"
    assert stocked.ledger.policy_revision() != OTHER


@pytest.mark.parametrize("revision", ["", "sha256:00", "md5:" + "0" * 64, OTHER + "\n"])
def test_what_isnt_a_revision(stocked: Vault, revision: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        stocked.broker.publish_policy(stocked.caller(), revision)
    assert caught.value.code == "bad_revision"


def test_an_unknown_revision(stocked: Vault) -> None:
    with pytest.raises(Unavailable) as caught:
        stocked.broker.publish_policy(stocked.caller(), OTHER)
    assert caught.value.code == "policy_unavailable"


def test_publish_denied_by_the_policy_in_force(stocked: Vault) -> None:
    stocked.publish(lambda _d: allow(), OTHER)
    stocked.policy.rule = without("write_policy")
    with pytest.raises(AccessDenied):
        stocked.broker.publish_policy(stocked.caller(), OTHER)


def test_no_policy_at_all(stocked: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = stocked.ledger.standing

    def without_policy(*asked: str, **more: Any) -> Standing:
        return msgspec.structs.replace(looked(*asked, **more), revision=None)

    monkeypatch.setattr(stocked.ledger, "standing", without_policy, raising=False)
    with pytest.raises(Unavailable) as caught:
        stocked.lease("m")
    assert caught.value.code == "policy_unavailable"
