"""Leases: what is granted, what is refused before anything is unwrapped, and what is wiped."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import pytest

from modelvault.broker import sealing
from modelvault.clock import to_text
from modelvault.crypto import derive, hpke
from modelvault.errors import (
    AccessDenied,
    AuthenticationError,
    Conflict,
    IntegrityError,
    InvalidRequest,
    ModelVaultError,
    NotFound,
    Unavailable,
)
from modelvault.identity.binding import key_hash
from modelvault.lease import Recipient
from modelvault.manifest import Hints
from support.sharing import push_sharing
from support.vaults import FULFILS, Crash, Vault, allow, deny, obligation

FILES = {"a.bin": bytes(range(200)), "config.json": b"{}", "w/b.bin": b"b" * 70}
DAY = 24 * 3600


@pytest.fixture
def stocked(vault: Vault) -> Vault:
    """Model m with one version, a tag, and a pickle among its files."""
    vault.push("m", FILES, hints=Hints(formats=("pickle",), pickles=("w/b.bin",)))
    vault.broker.tag(vault.caller(), "m@1", "prod")
    vault.policy.rule = lambda _d: allow(obligation("allow_pickle", True))
    vault.keys.calls.clear()
    return vault


def on_load(*obligations: dict[str, object]) -> Any:
    return lambda _d: allow(obligation("allow_pickle", True), *obligations)


@pytest.mark.parametrize("suite", hpke.SUITES)
@pytest.mark.parametrize("reference", ["m", "m@1", "m:prod", "default/m"])
def test_all_files(stocked: Vault, suite: str, reference: str) -> None:
    job = stocked.lease(reference, suite=suite)
    assert stocked.read(job) == FILES
    lease = job.lease
    assert (lease.version, lease.ttl_s, lease.paths) == (1, 900, tuple(sorted(FILES)))
    entry = stocked.entries("load")[-1]
    assert (entry.lease, entry.outcome, entry.id) == (lease.id, "allowed", lease.receipt.entry)
    assert entry.leaf_hash().hex() == lease.receipt.leaf_hash
    assert entry.details == {"files": 3, "bytes": 272}
    assert (lease.signed.tag is not None) == (reference == "m:prod")
    assert stocked.keys.count("unwrap") == 1


def test_some_files_are_one_key_each(stocked: Vault) -> None:
    job = stocked.lease("m", files=("config.json", "a.bin"))
    assert stocked.read(job) == {"a.bin": FILES["a.bin"], "config.json": b"{}"}
    assert stocked.ledger.lease(job.lease.id).bytes == 202


@pytest.mark.parametrize(
    ("obligations", "files", "granted"),
    [
        (("files", ["*.json"]), None, {"config.json"}),
        (("files", ["*.bin"]), None, {"a.bin", "w/b.bin"}),
        (("files", ["a.bin", "config.*"]), ("a.bin",), {"a.bin"}),
    ],
)
def test_the_files_obligation(
    stocked: Vault, obligations: Any, files: Any, granted: set[str]
) -> None:
    stocked.policy.rule = on_load(obligation(*obligations))
    assert set(stocked.load("m", files=files)) == granted


# A rule, changes of the ask, and the code, of an ask that gets nothing.
REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "policy": (lambda d: deny("no") if d["action"]["name"] == "load" else allow(), {}, "denied"),
    "files outside": (
        on_load(obligation("files", ["*.json"])),
        {"files": ("a.bin",)},
        "files_not_allowed",
    ),
    "some files outside": (
        on_load(obligation("files", ["*.json"])),
        {"files": ("a.bin", "config.json")},
        "files_not_allowed",
    ),
    "no file left": (on_load(obligation("files", ["*.txt"])), {}, "files_not_allowed"),
    "another case": (on_load(obligation("files", ["A.BIN"])), {}, "files_not_allowed"),
    "pickle": (lambda _d: allow(), {}, "pickle_refused"),
    "pickle forbidden": (
        lambda _d: allow(obligation("allow_pickle", False)),
        {},
        "pickle_refused",
    ),
    "pickle allowed and forbidden": (
        on_load(obligation("allow_pickle", False)),
        {"files": ("w/b.bin",)},
        "pickle_refused",
    ),
    "unknown obligation": (
        lambda d: allow(obligation("dance", 1)) if d["action"]["name"] == "load" else allow(),
        {},
        "obligation_unfulfillable",
    ),
    "memory_only that the loader can't keep": (
        on_load(obligation("memory_only", True)),
        {"fulfils": tuple(one for one in FULFILS if one != "memory_only")},
        "obligation_unfulfillable",
    ),
    "grace that the loader doesn't know": (
        on_load(obligation("grace_s", 10)),
        {"fulfils": ()},
        "obligation_unfulfillable",
    ),
    "bytes": (on_load(obligation("max_bytes_per_day", 271)), {}, "max_bytes_per_day"),
    "slots": (on_load(obligation("max_concurrent_leases", 0)), {}, "max_concurrent_leases"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_unwrapped(stocked: Vault, case: str) -> None:
    rule, changes, code = REFUSED[case]
    stocked.policy.rule = rule
    with pytest.raises(AccessDenied) as caught:
        stocked.lease("m", **changes)
    assert caught.value.code == code
    details = caught.value.details
    assert (details["subject"], details["action"]) == ("local:alice", "load")
    assert (details["model"], details["purpose"]) == ("default/m@1", "inference")
    assert details["owner"] == "local:alice"
    assert details["decision_id"] in {one.decision_id for one in stocked.entries()}
    assert all(
        word in caught.value.message for word in ("local:alice", "load", "default/m@1", "inference")
    )
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert stocked.keys.count("unwrap") == 0
    assert stocked.ledger.leases() == []
    entry = stocked.entries()[-1]
    assert (entry.outcome, entry.actor, entry.action) == ("denied", "local:alice", "load")
    assert list(entry.reasons) == details["reasons"]


def test_files_without_the_pickle_need_no_leave(stocked: Vault) -> None:
    stocked.policy.rule = lambda _d: allow()
    assert set(stocked.load("m", files=("a.bin",))) == {"a.bin"}


def test_a_limit_says_what_was_used(stocked: Vault) -> None:
    stocked.policy.rule = on_load(obligation("max_bytes_per_day", 300))
    stocked.load("m")
    with pytest.raises(AccessDenied) as caught:
        stocked.load("m")
    assert (caught.value.details["limit"], caught.value.details["used"]) == (300, 272)
    assert "resets_at" in caught.value.details
    stocked.clock.advance(DAY)
    stocked.load("m")


def test_slots_are_given_back(stocked: Vault) -> None:
    stocked.policy.rule = on_load(obligation("max_concurrent_leases", 1))
    job = stocked.lease("m")
    with pytest.raises(AccessDenied):
        stocked.lease("m")
    stocked.lease("m", caller=stocked.caller("bob"))
    stocked.broker.release(stocked.caller(), job.lease.id)
    stocked.lease("m")


def test_twenty_at_once_for_three_slots(stocked: Vault) -> None:
    stocked.policy.rule = on_load(obligation("max_concurrent_leases", 3))
    got: list[object] = []

    def take() -> None:
        try:
            got.append(stocked.lease("m"))
        except AccessDenied as refused:
            got.append(refused.code)

    threads = [threading.Thread(target=take) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got.count("max_concurrent_leases") == 17


@pytest.mark.parametrize(
    ("obligations", "ttl", "total"),
    [
        ([], 900, None),
        ([("max_ttl_s", 60)], 60, None),
        ([("max_ttl_s", 9000)], 900, None),
        ([("max_ttl_s", 60), ("max_total_s", 100)], 60, 100),
        ([("max_total_s", 30)], 30, 30),
        ([("max_total_s", 2**53 - 1)], 900, None),
    ],
)
def test_how_long(stocked: Vault, obligations: Any, ttl: int, total: int | None) -> None:
    stocked.policy.rule = on_load(*(obligation(*one) for one in obligations))
    job = stocked.lease("m")
    row = stocked.ledger.lease(job.lease.id)
    assert job.lease.ttl_s == ttl
    assert row.expires_at == stocked.clock() + ttl * 1000
    if total is None:
        assert row.total_until > stocked.clock() + 1000 * DAY * 1000
    else:
        assert row.total_until == stocked.clock() + total * 1000


def test_the_same_ask_is_the_same_lease(stocked: Vault) -> None:
    stocked.policy.rule = on_load(obligation("max_concurrent_leases", 1))
    ask, key = stocked.ask("m")
    today = to_text(stocked.clock())[:10]
    one = stocked.broker.lease(stocked.caller(), ask)
    stocked.clock.advance(100)
    again = stocked.broker.lease(stocked.caller(), ask)
    assert (again.id, again.receipt, again.ttl_s) == (one.id, one.receipt, 800)
    assert again.sealed != one.sealed
    assert stocked.ledger.usage("local:alice", today) == 272
    assert len(stocked.entries("load")) == 1
    del key
    other = stocked.broker.lease(stocked.caller("bob"), ask)
    assert other.id != one.id


@pytest.mark.parametrize(
    "change",
    [{"purpose": "evaluation"}, {"action": "export"}, {"files": ("a.bin",)}, {"reference": "n"}],
)
def test_one_nonce_for_two_asks(stocked: Vault, change: dict[str, Any]) -> None:
    stocked.create("n")
    stocked.push("n", {"a.bin": b"other"})
    ask, _ = stocked.ask("m")
    stocked.broker.lease(stocked.caller(), ask)
    unwrapped = stocked.keys.count("unwrap")
    with pytest.raises(Conflict) as caught:
        stocked.broker.lease(stocked.caller(), msgspec.structs.replace(ask, **change))
    assert caught.value.code == "ask_reused"
    assert stocked.keys.count("unwrap") == unwrapped


def test_a_ledger_that_mixes_up_asks_gets_no_keys(
    stocked: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, _ = stocked.ask("m")
    real = stocked.ledger.admit

    def admit(lease: Any, limits: Any, entry: Any) -> Any:
        admission = real(lease, limits, entry)
        other = msgspec.structs.replace(admission.lease, paths=("a.bin",))
        return msgspec.structs.replace(admission, lease=other, repeated=True)

    monkeypatch.setattr(stocked.ledger, "admit", admit, raising=False)
    with pytest.raises(Conflict) as caught:
        stocked.broker.lease(stocked.caller(), ask)
    assert caught.value.code == "ask_reused"
    assert stocked.keys.count("unwrap") == 0


@pytest.mark.parametrize("how", ["ended", "ran out", "nearly out"])
def test_a_repeated_ask_whose_lease_is_over(stocked: Vault, how: str) -> None:
    ask, _ = stocked.ask("m")
    lease = stocked.broker.lease(stocked.caller(), ask)
    if how == "ended":
        stocked.broker.release(stocked.caller(), lease.id)
    stocked.clock.advance({"ended": 0, "ran out": 901, "nearly out": 899.5}[how])
    with pytest.raises(Conflict) as caught:
        stocked.broker.lease(stocked.caller(), ask)
    assert caught.value.code == "lease_ended"


@pytest.mark.parametrize(
    ("reference", "code"),
    [("x", "no_model"), ("m@2", "no_version"), ("m:none", "no_tag"), ("t/m", "no_model"),
     ("m@sha256:" + "0" * 64, "no_version"), ("empty", "no_version")],
)  # fmt: skip
def test_not_found(stocked: Vault, reference: str, code: str) -> None:
    stocked.create("empty")
    with pytest.raises(NotFound) as caught:
        stocked.lease(reference)
    assert caught.value.code == code
    assert caught.value.hint


def test_a_file_that_isnt_there(stocked: Vault) -> None:
    with pytest.raises(NotFound) as caught:
        stocked.lease("m", files=("a.bin", "x.bin"))
    assert caught.value.code == "no_file"
    with pytest.raises(NotFound):
        stocked.lease("m", files=())
    assert stocked.keys.count("unwrap") == 0


def hidden(document: dict[str, Any]) -> object:
    """Bob may do all but see model m."""
    bob = document["subject"]["id"] == "local:bob"
    return deny("no_grant") if bob and document["resource"]["id"] == "m" else allow()


@pytest.mark.parametrize(
    "reference", ["m", "m@1", "m@7", "m:prod", "m:none", "m@sha256:" + "0" * 64]
)
def test_what_may_not_be_seen_isnt_there(stocked: Vault, reference: str) -> None:
    stocked.policy.rule = hidden
    bob = stocked.caller("bob")
    with pytest.raises(NotFound) as unseen:
        stocked.lease(reference, caller=bob)
    with pytest.raises(NotFound) as absent:
        stocked.lease(reference.replace("m", "n", 1), caller=bob)
    assert unseen.value.code == absent.value.code == "no_model"
    assert unseen.value.message == absent.value.message.replace("model n", "model m")
    assert unseen.value.hint == absent.value.hint
    assert unseen.value.details == absent.value.details == {}


@pytest.mark.parametrize("what", ["m@2", "m"])
def test_hidden_versions(stocked: Vault, what: str) -> None:
    stocked.push("m", {"a.bin": b"2"})
    stocked.broker.delete(stocked.caller(), what) if what == "m@2" else None
    if what == "m@2":
        assert stocked.lease("m").lease.version == 1
        with pytest.raises(NotFound):
            stocked.lease("m@2")
    else:
        stocked.broker.delete(stocked.caller(), "m")
        for reference in ("m", "m@1", "m:prod"):
            with pytest.raises(NotFound):
                stocked.lease(reference)


def test_hidden_in_the_last_moment(stocked: Vault) -> None:
    def hide(name: str) -> None:
        if name == "admit":
            stocked.ledger.before = lambda _name: None
            stocked.broker.delete(stocked.caller(), "m")

    stocked.ledger.before = hide
    with pytest.raises(NotFound):
        stocked.lease("m")
    assert stocked.keys.count("unwrap") == 0


@pytest.mark.parametrize(("kind", "target"), [("principal", "local:bob"), ("version", "m@1")])
def test_revoked(stocked: Vault, kind: str, target: str) -> None:
    stocked.broker.revoke(stocked.caller(), kind=kind, target=target, reason="leak")
    with pytest.raises(AccessDenied) as caught:
        stocked.lease("m", caller=stocked.caller("bob"))
    assert caught.value.code == "revoked"
    assert caught.value.details["subject"] == "local:bob"
    assert stocked.keys.count("unwrap") == 0
    assert stocked.entries()[-1].reasons == ("revoked",)


def test_a_principal_revoked_for_an_hour(stocked: Vault) -> None:
    stocked.broker.revoke(
        stocked.caller(), kind="principal", target="local:bob", reason="leave", for_s=3600
    )
    with pytest.raises(AccessDenied):
        stocked.lease("m", caller=stocked.caller("bob"))
    stocked.clock.advance(3601)
    stocked.lease("m", caller=stocked.caller("bob"))


def test_a_policy_that_moved_meanwhile(stocked: Vault) -> None:
    other = "sha256:" + "02" * 32
    stocked.publish(lambda _d: deny("no"), other)

    def move(name: str) -> None:
        if name == "admit":
            stocked.ledger.before = lambda _name: None
            entry = stocked.entries()[0]
            stocked.ledger.set_policy_revision(
                other, msgspec.structs.replace(entry, seq=0, id="f" * 32)
            )

    stocked.ledger.before = move
    with pytest.raises(Unavailable) as caught:
        stocked.lease("m")
    assert caught.value.code == "policy_moved"
    assert stocked.keys.count("unwrap") == 0


def throws(_document: dict[str, Any]) -> object:
    raise Unavailable("policy_unavailable", "the rule threw")


BROKEN: dict[str, Any] = {
    "undefined": lambda _d: None,
    "a string": lambda _d: "allow",
    "true": lambda _d: True,
    "empty": lambda _d: {},
    "decision as text": lambda _d: {
        "decision": "true",
        "context": {"reasons": [], "obligations": []},
    },
    "no context": lambda _d: {"decision": True},
    "no obligations": lambda _d: {"decision": True, "context": {"reasons": []}},
    "an obligation without a value": lambda _d: allow({"id": "x", "type": "max_ttl_s"}),
    "a ttl of nothing": lambda _d: allow(obligation("max_ttl_s", 0)),
    "a ttl as text": lambda _d: allow(obligation("max_ttl_s", "60")),
    "throws or loops": throws,
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_policy_is_an_outage(stocked: Vault, case: str) -> None:
    job = stocked.lease("m")
    unwrapped = stocked.keys.count("unwrap")
    entries = len(stocked.entries())
    stocked.policy.rule = BROKEN[case]
    for call in (
        lambda: stocked.lease("m"),
        lambda: stocked.broker.renew(stocked.caller(), job.lease.id, job.key_hash),
        lambda: stocked.broker.show(stocked.caller(), "m"),
        lambda: stocked.open("m", FILES),
        lambda: stocked.broker.rotate(stocked.caller(), "m"),
    ):
        with pytest.raises(Unavailable) as caught:
            call()
        assert caught.value.code == "policy_unavailable"
    assert stocked.keys.count("unwrap") == unwrapped
    assert len(stocked.entries()) == entries
    assert stocked.ledger.lease(job.lease.id).ended_at is None


def test_an_old_bundle_replayed(stocked: Vault) -> None:
    stocked.policy.revision = "sha256:" + "07" * 32
    with pytest.raises(Unavailable) as caught:
        stocked.lease("m")
    assert caught.value.code == "policy_unavailable"


def test_a_key_bound_token(stocked: Vault) -> None:
    ask, key = stocked.ask("m")
    hashed = key_hash(key.suite, key.public)
    mine = stocked.caller(bound_to=hashed)
    lease = stocked.broker.lease(mine, ask)
    assert stocked.ledger.lease(lease.id).bound
    assert stocked.policy.asked[-1]["subject"]["bound_by"] == "key"
    other, _ = stocked.ask("m")
    with pytest.raises(AuthenticationError) as caught:
        stocked.broker.lease(mine, other)
    assert caught.value.code == "bound_to_other_key"
    for call in (
        lambda: stocked.broker.show(mine, "m"),
        lambda: stocked.broker.whoami(mine),
        lambda: stocked.broker.list(mine, tenant="default"),
    ):
        with pytest.raises(AuthenticationError):
            call()


@pytest.mark.parametrize(
    ("claims", "purpose", "code"),
    [
        ({}, "inference", None),
        ({"purpose": "inference"}, "inference", None),
        ({"purpose": "evaluation"}, "inference", "denied"),
        ({"purpose": 7}, "inference", "denied"),
    ],
)
def test_a_purpose_that_the_token_binds(
    stocked: Vault, claims: dict[str, object], purpose: str, code: str | None
) -> None:
    caller = stocked.caller(claims=claims)
    if code is None:
        stocked.lease("m", caller=caller, purpose=purpose)
        bound = stocked.policy.asked[-1]["context"]["purpose_bound_by"]
        assert bound == ("token" if claims else "caller")
    else:
        with pytest.raises(AccessDenied, match="purpose_mismatch"):
            stocked.lease("m", caller=caller, purpose=purpose)


def test_export_is_an_action_of_its_own(stocked: Vault) -> None:
    stocked.policy.rule = lambda d: (
        deny("no_export")
        if d["action"]["name"] == "export"
        else allow(obligation("allow_pickle", True))
    )
    stocked.lease("m")
    with pytest.raises(AccessDenied) as caught:
        stocked.lease("m", action="export", purpose="export")
    assert caught.value.details["action"] == "export"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"purpose": ""}, "bad_document"),
        ({"purpose": "x" * 65}, "bad_document"),
        ({"action": "renew"}, "bad_document"),
        ({"nonce": b""}, "bad_document"),
        ({"ticket": "x" * 129}, "bad_document"),
        ({"reference": "a b"}, "bad_reference"),
        ({"recipient": Recipient("x25519", bytes(32))}, "bad_recipient"),
        ({"recipient": Recipient("mlkem768-x25519", bytes(1216))}, "bad_recipient"),
        ({"recipient": Recipient("mlkem768-x25519", b"")}, "bad_recipient"),
    ],
)
def test_malformed_asks(stocked: Vault, change: dict[str, Any], code: str) -> None:
    entries = len(stocked.entries())
    with pytest.raises(InvalidRequest) as caught:
        stocked.broker.lease(
            stocked.caller(), msgspec.structs.replace(stocked.ask("m")[0], **change)
        )
    assert caught.value.code == code
    assert (len(stocked.entries()), stocked.keys.count("unwrap")) == (entries, 0)


def test_the_policy_sees_verified_facts(stocked: Vault) -> None:
    stocked.lease("m:prod", files=("a.bin",), ticket="T-1")
    asked = stocked.policy.asked[-1]
    resource = asked["resource"]
    assert (resource["owner"], resource["classification"]) == ("local:alice", "internal")
    assert resource["hints"] == {"formats": ["pickle"], "pickles": ["w/b.bin"]}
    assert (resource["files"], resource["bytes"], resource["version"]) == (["a.bin"], 200, 1)
    assert asked["context"]["ticket"] == "T-1"
    assert asked["context"]["now"] == stocked.clock()


def failing(stocked: Vault, error: BaseException, times: int = 1) -> None:
    left = [times]

    def fail(name: str) -> None:
        if name == "unwrap" and left[0]:
            left[0] -= 1
            raise error

    stocked.keys.before = fail


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unavailable("key_service_unavailable", "away"), "key_service_unavailable"),
        (NotFound("no_kek", "gone"), "key_missing"),
        (IntegrityError("bad_wrapped_key", "altered"), "bad_wrapped_key"),
        (Conflict("odd", "odd"), "odd"),
    ],
)
def test_keys_that_cant_be_had_end_the_lease(
    stocked: Vault, error: ModelVaultError, code: str
) -> None:
    stocked.policy.rule = on_load(obligation("max_concurrent_leases", 1))
    failing(stocked, error)
    with pytest.raises(ModelVaultError) as caught:
        stocked.lease("m")
    assert caught.value.code == code
    entry = stocked.entries()[-1]
    assert (entry.outcome, entry.reasons) == ("failed", (code,))
    row = stocked.ledger.leases()[0]
    assert (row.id, row.end_reason) == (entry.lease, "failed")
    stocked.lease("m")


def test_a_repeated_ask_that_fails_leaves_the_lease_alone(stocked: Vault) -> None:
    ask, _ = stocked.ask("m")
    lease = stocked.broker.lease(stocked.caller(), ask)
    failing(stocked, Unavailable("away", "away"))
    with pytest.raises(Unavailable):
        stocked.broker.lease(stocked.caller(), ask)
    assert stocked.ledger.lease(lease.id).ended_at is None
    assert stocked.entries()[-1].outcome == "failed"
    assert stocked.broker.lease(stocked.caller(), ask).id == lease.id


def test_the_first_failure_is_the_one_to_tell(stocked: Vault) -> None:
    failing(stocked, IntegrityError("bad_wrapped_key", "altered"))

    def away(name: str) -> None:
        if name == "end":
            raise Unavailable("ledger_unavailable", "away")

    stocked.ledger.before = away
    with pytest.raises(IntegrityError):
        stocked.lease("m")


def test_lost_the_race_with_a_rotation_once(stocked: Vault) -> None:
    def rotate(name: str) -> None:
        if name == "unwrap":
            stocked.keys.before = lambda _name: None
            stocked.broker.rotate(stocked.caller(), "m")

    stocked.keys.before = rotate
    assert stocked.load("m") == FILES
    assert stocked.keys.count("unwrap") == 2


def test_lost_the_race_twice(stocked: Vault) -> None:
    failing(stocked, Conflict("kek_version_retired", "gone"), times=2)
    with pytest.raises(Unavailable) as caught:
        stocked.lease("m")
    assert caught.value.code == "key_moving"
    assert stocked.keys.count("unwrap") == 2


@pytest.mark.parametrize("fails", [None, "seal", "derive"])
def test_deks_and_file_keys_are_wiped(
    stocked: Vault, fails: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def keep(real: Any) -> Any:
        def call(*args: Any) -> Any:
            made.append(real(*args))
            return made[-1]

        return call

    monkeypatch.setattr(stocked.keyring, "unwrap", keep(stocked.keyring.unwrap))
    monkeypatch.setattr(derive, "file_key", keep(derive.file_key))
    real_seal = hpke.seal
    plains: list[Any] = []

    def seal(plain: Any, *rest: Any) -> bytes:
        plains.append(plain)
        if fails == "seal" and len(plains) == 2:
            raise Crash(fails)
        return real_seal(plain, *rest)

    monkeypatch.setattr(sealing.hpke, "seal", seal)
    if fails == "derive":
        monkeypatch.setattr(derive, "file_key", _dies)
    if fails is None:
        stocked.lease("m")
    else:
        with pytest.raises(Crash):
            stocked.lease("m")
        assert stocked.ledger.leases()[0].end_reason == "failed"
        assert stocked.entries()[-1].reasons == ("interrupted",)
    assert len(made) == (1 if fails == "derive" else 4)
    assert all(secret.wiped for secret in made + plains)


def _dies(*_args: object) -> None:
    raise Crash("derive")


@pytest.mark.parametrize("dies", ["before", "after"])
def test_no_committed_entry_no_key(stocked: Vault, dies: str) -> None:
    def die(name: str) -> None:
        if name == "admit":
            raise Crash(name)

    setattr(stocked.ledger, dies, die)
    with pytest.raises(Crash):
        stocked.lease("m")
    assert stocked.keys.count("unwrap") == 0
    stocked.ledger.before = stocked.ledger.after = lambda _name: None
    assert len(stocked.entries("load")) == (1 if dies == "after" else 0)


def test_token_trouble_is_logged_without_the_token(stocked: Vault) -> None:
    caller = msgspec.structs.replace(stocked.caller(), source_ip="9" * 99, client="c" * 999)
    stocked.clock.advance(3600)
    with pytest.raises(AuthenticationError):
        stocked.broker.lease(caller, stocked.ask("m")[0])
    entry = stocked.entries()[-1]
    assert (entry.actor, entry.outcome, entry.reasons) == (
        "unauthenticated",
        "denied",
        ("token_expired",),
    )
    assert entry.details == {"source_ip": "9" * 64, "client": "c" * 64}
    assert caller.token not in str(stocked.entries())


def test_versions_that_share_files_of_an_older_artifact(stocked: Vault) -> None:
    """Each artifact is unwrapped once, whatever the number of its files."""
    new = {"new.bin": b"new" * 30, "new2.bin": b"n"}
    push_sharing(stocked, "m", 1, new)
    stocked.keys.calls.clear()
    assert stocked.load("m@2") == FILES | new
    assert stocked.keys.count("unwrap") == 2
