"""Identities of one vault against each other: revoked ones, other ones, ones with odd names."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modelvault import connect, wiring
from modelvault.access import Principal
from modelvault.client.session import Session
from modelvault.errors import (
    AccessDenied,
    AuthenticationError,
    Conflict,
    InvalidRequest,
    ModelVaultError,
    NotFound,
)
from modelvault.lease import LeaseAsk
from support.attacked import as_somebody, change, folder
from support.homes import isolated

FILES = {"a.dat": b"a" * 5000, "b.dat": b"b" * 100}
PATIENCE_S = 10


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = isolated(tmp_path, monkeypatch)
    wiring.init(segment_length=4096)
    return place


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return folder(tmp_path / "in", FILES)


@pytest.fixture
def vault(home: Path, files: Path) -> Iterator[Session]:
    with connect() as session:
        session.create("m")
        session.push(files, "m:prod")
        yield session


@pytest.fixture
def mallory(vault: Session) -> Iterator[Session]:
    with as_somebody(vault, "mallory", "admins") as session:
        yield session


def limits(home: Path, vault: Session, **changes: int) -> None:
    path = home / "policy" / "data.json"
    data = json.loads(path.read_text())
    data["limits"].update(changes)
    path.write_text(json.dumps(data))
    vault.publish_policy()


# Revoked


EVERYTHING: dict[str, Callable[[Session, Path], object]] = {
    "load": lambda s, _p: s.load("m", purpose="inference"),
    "export": lambda s, p: s.export("m", p.parent / "out"),
    "push": lambda s, p: s.push(p, "m"),
    "pull": lambda s, p: s.pull("m", p.parent / "out"),
    "list": lambda s, _p: s.list(),
    "show": lambda s, _p: s.show("m"),
    "create": lambda s, _p: s.create("n"),
    "classify": lambda s, _p: s.classify("m", classification="public"),
    "tag": lambda s, _p: s.tag("m@1", "next"),
    "delete": lambda s, _p: s.delete("m"),
    "rotate": lambda s, _p: s.rotate("m"),
    "revoke": lambda s, _p: s.revoke("principal", "local:other", reason="x"),
    "explain": lambda s, _p: s.explain("load", "m", purpose="inference"),
    "read_leases": lambda s, _p: s.leases(),
    "read_audit": lambda s, _p: s.entries(),
    "gc": lambda s, _p: s.gc(),
    "whoami": lambda s, _p: s.whoami(),
    "write_policy": lambda s, _p: s._context.steward.publish_policy(
        s._context.credentials.caller(), "sha256:" + "0" * 64
    ),
}


def test_a_revoked_principal_can_do_nothing(vault: Session, mallory: Session, files: Path) -> None:
    assert mallory.whoami().id == "local:mallory"
    vault.revoke("principal", "local:mallory", reason="token stolen")
    before = vault.entries(limit=1000).entries[-1].seq
    for action, ask in EVERYTHING.items():
        with pytest.raises(AccessDenied) as caught:
            ask(mallory, files)
        assert caught.value.code == "revoked", action
        assert "local:mallory" in caught.value.message
        assert caught.value.hint
    told = vault.entries(after=before, limit=1000).entries
    assert [(entry.action, entry.outcome, entry.actor) for entry in told] == [
        (action, "denied", "local:mallory") for action in EVERYTHING
    ]
    assert all(entry.reasons == ("revoked",) for entry in told)
    assert [one.model for one in vault.list()] == ["m"]
    assert len(vault.show("m").versions) == 1


def test_a_revoked_principal_learns_nothing_by_being_refused(
    vault: Session, mallory: Session
) -> None:
    vault.revoke("principal", "local:mallory", reason="left")
    said = set()
    for name in ("m", "nothing"):
        for ask in (mallory.show, mallory.delete, mallory.rotate):
            with pytest.raises(AccessDenied) as caught:
                ask(name)
            said.add((caught.value.code, caught.value.message, caught.value.hint))
    assert len(said) == 1


def test_a_push_that_began_before_the_revocation_isnt_finished_after_it(
    vault: Session, mallory: Session, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def progress(_done: int, _total: int) -> None:
        if not revoked:
            revoked.append(vault.revoke("principal", "local:mallory", reason="left"))

    revoked: list[int] = []
    with pytest.raises(AccessDenied) as caught:
        mallory.push(files, "m", progress=progress)
    assert caught.value.code == "revoked"
    assert [one.version for one in vault.show("m").versions] == [1]


def test_a_revocation_that_ends(vault: Session, mallory: Session) -> None:
    vault.revoke("principal", "local:mallory", reason="a pause", for_s=1)
    with pytest.raises(AccessDenied) as caught:
        mallory.show("m")
    assert "until" in caught.value.message
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            mallory.show("m")
        except AccessDenied:
            assert time.monotonic() < end
            time.sleep(0.05)
        else:
            return


def test_a_revoked_version_is_refused_and_another_isnt(vault: Session, files: Path) -> None:
    vault.push(files, "m")
    vault.revoke("version", "m@1", reason="poisoned")
    for reference in ("m@1", "m:prod"):
        with pytest.raises(AccessDenied) as caught:
            vault.load(reference, purpose="inference")
        assert caught.value.code == "revoked"
        with pytest.raises(AccessDenied):
            vault.export(reference, files.parent / "out")
    vault.load("m@2", purpose="inference").close()


@pytest.mark.parametrize("deleted", ["m@2", "m"])
def test_what_was_deleted_can_still_be_revoked(vault: Session, files: Path, deleted: str) -> None:
    """A job that runs on after `delete` isn't out of reach."""
    vault.push(files, "m")
    model = vault.load("m@2", purpose="inference")
    vault.delete(deleted)
    with pytest.raises(NotFound):
        vault.revoke("version", "m@3", reason="there is none")
    assert vault.revoke("version", "m@2", reason="poisoned") == 1
    (lease,) = vault.leases(ended=True)
    assert lease.end_reason == "revoked"
    with as_somebody(vault, "guest") as guest, pytest.raises(NotFound) as caught:
        guest.revoke("version", "m@2", reason="x")
    assert caught.value.code == "no_model"
    model.close()


def test_a_revocation_that_would_hit_nobody_says_so(vault: Session) -> None:
    for target in ("mallory", "local:", ":mallory", "m@1"):
        with pytest.raises(InvalidRequest) as caught:
            vault.revoke("principal", target, reason="x")
        assert caught.value.code == "bad_target"


def test_a_revocation_beside_renewals(vault: Session, mallory: Session) -> None:
    """However they fall, nothing is renewed after the revocation."""
    model = mallory.load("m", purpose="inference")
    (lease,) = vault.leases()
    context = mallory._context
    key_hash = LOADED["hash"]
    together = threading.Barrier(2)

    def renewing() -> list[str]:
        together.wait()
        said = []
        while not said or said[-1] == "renewed":
            try:
                context.broker.renew(context.credentials.caller(), lease.id, key_hash)
                said.append("renewed")
            except AccessDenied as refused:
                said.append(refused.code)
        return said

    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(renewing)
        together.wait()
        assert vault.revoke("lease", lease.id, reason="x") == 1
        assert answers.result(PATIENCE_S)[-1] in {"revoked", "lease_ended"}
    revoked = [e for e in vault.entries(limit=1000).entries if e.action == "revoke"][-1]
    later = vault.entries(after=revoked.seq, limit=1000).entries
    assert not [entry for entry in later if (entry.action, entry.outcome) == ("renew", "allowed")]
    model.close()


LOADED: dict[str, str] = {}


@pytest.fixture(autouse=True)
def hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes the hash of the newest one-time key."""
    from modelvault.client.keys import OneTimeKey

    real = OneTimeKey.__init__

    def noted(self: OneTimeKey, *args: object) -> None:
        real(self, *args)  # type: ignore[arg-type]
        LOADED["hash"] = self.hash

    monkeypatch.setattr(OneTimeKey, "__init__", noted)


# Somebody else's


def test_another_identitys_lease(vault: Session, mallory: Session) -> None:
    """Not even with the right key's hash; what an id that was made up gets is the same."""
    with as_somebody(vault, "job", "inference") as job:
        model = job.load("m", purpose="inference")
        (lease,) = vault.leases()
        broker, caller = mallory._context.broker, mallory._context.credentials.caller()
        said = []
        for name in (lease.id, "0" * 32):
            for ask in (
                lambda name=name: broker.renew(caller, name, LOADED["hash"]),
                lambda name=name: broker.release(caller, name),
            ):
                with pytest.raises(NotFound) as caught:
                    ask()
                said.append((caught.value.code, caught.value.message))
        assert len(set(said)) == 1
        assert [one.id for one in vault.leases()] == [lease.id]
        model.close()


def test_a_replayed_ask_of_somebody_elses(vault: Session, mallory: Session) -> None:
    """The same bytes under another identity are another ask: a lease of their own, and sealed to
    a key that only its owner has."""
    asks: list[LeaseAsk] = []
    context = vault._context
    real = context.broker.lease

    def noting(caller: object, ask: LeaseAsk) -> object:
        asks.append(ask)
        return real(caller, ask)  # type: ignore[arg-type]

    context.broker.lease = noting  # type: ignore[method-assign, assignment]
    model = vault.load("m", purpose="inference")
    context.broker.lease = real  # type: ignore[method-assign]
    (lease,) = vault.leases()
    theirs = mallory._context.broker.lease(mallory._context.credentials.caller(), asks[0])
    assert theirs.id != lease.id
    assert len(vault.leases()) == 2
    # And by the same identity: the lease that stands, sealed anew, charged once.
    again = real(context.credentials.caller(LOADED["hash"]), asks[0])
    assert again.id == lease.id
    assert again.sealed != theirs.sealed
    assert len(vault.leases()) == 2
    model.close()
    with pytest.raises(Conflict) as caught:
        real(context.credentials.caller(LOADED["hash"]), asks[0])
    assert caught.value.code == "lease_ended"


def test_a_token_for_another_vault(vault: Session, tmp_path: Path) -> None:
    wiring.init(tmp_path / "second")
    with connect(home=tmp_path / "second") as second:
        token = second.mint_token(groups=["admins"])
    with connect(token=token) as stranger, pytest.raises(AuthenticationError) as caught:
        stranger.list()
    assert caught.value.code == "unknown_issuer"
    assert vault.entries(limit=1000).entries[-1].actor == "unauthenticated"


# Budgets


def test_a_budget_of_bytes_with_parallel_loads(home: Path, vault: Session) -> None:
    size = sum(map(len, FILES.values()))
    limits(home, vault, max_bytes_per_day=3 * size + 1)
    together = threading.Barrier(8)
    refusals: list[AccessDenied] = []

    def one(_number: int) -> str:
        together.wait()
        try:
            with vault.load("m", purpose="inference"):
                return "loaded"
        except AccessDenied as refused:
            refusals.append(refused)
            return refused.code

    with ThreadPoolExecutor(8) as pool:
        outcomes = sorted(pool.map(one, range(8)))
    assert outcomes == ["loaded"] * 3 + ["max_bytes_per_day"] * 5
    assert {refused.details["limit"] for refused in refusals} == {3 * size + 1}
    with pytest.raises(AccessDenied):
        vault.load("m", purpose="inference", files=["b.dat"])  # not a byte more


# Names and texts


LIKE_ROOT = ("local:root", "r\u043e\u043et", "root ", "ROOT", "*", "local:*", "%")


def test_subjects_that_look_like_the_owner(vault: Session) -> None:
    """A name is compared by its characters, behind the issuer's: nobody becomes the owner."""
    owner = vault.show("m").summary.owner
    for sub in LIKE_ROOT:
        with as_somebody(vault, sub) as other:
            assert other.whoami().id == f"local:{sub}" != owner
            with pytest.raises(NotFound):
                other.show("m")
    for sub in ("root\u200b", "root\u202e", "root\n", ""):
        with pytest.raises(InvalidRequest):
            vault.mint_token(sub=sub, groups=[])


def test_claims_that_are_the_issuers_own(vault: Session) -> None:
    for name in ("groups", "sub", "iss", "aud", "exp", "iat", "nbf", "jti"):
        with pytest.raises(InvalidRequest) as caught:
            vault.mint_token(sub="guest", groups=[], claims={name: "root"})
        assert caught.value.code == "reserved_claim"


def test_claims_that_imitate_the_policys_input(vault: Session) -> None:
    claims = {
        "subject": {"id": "local:root", "groups": ["local:admins"]},
        "local:groups": ["admins"],
        "id": "local:root",
        "bound_by": "key",
        "resource": {"owner": "local:guest", "classification": "public"},
        "input": {"subject": {"groups": ["local:admins"]}},
        "decision": True,
    }
    token = vault.mint_token(sub="guest", groups=[], claims=claims)
    with connect(token=token) as guest:
        who = guest.whoami()
        assert (who.groups, who.bound_by) == ((), "bearer")
        with pytest.raises(NotFound):
            guest.load("m", purpose="inference")


def test_a_purpose_that_the_token_binds(vault: Session) -> None:
    for bound in ("evaluation", ["inference"], {"inference": True}, 1, ""):
        token = vault.mint_token(sub="job", groups=["inference"], claims={"purpose": bound})
        with connect(token=token) as job, pytest.raises(AccessDenied) as caught:
            job.load("m", purpose="inference")
        assert "purpose_mismatch" in caught.value.details["reasons"]
    token = vault.mint_token(sub="job", groups=["inference"], claims={"purpose": "inference"})
    with connect(token=token) as job:
        job.load("m", purpose="inference").close()


FORGING = ("a\nerror: forged", "a\x1b[2J", "\u202eb", "\ud800", "a\0", "\u2028")
PLACES: dict[str, Callable[[Session, str], object]] = {
    "purpose": lambda s, text: s.load("m", purpose=text),
    "ticket": lambda s, text: s.load("m", purpose="inference", ticket=text),
    "reason": lambda s, text: s.revoke("principal", "local:x", reason=text),
    "target": lambda s, text: s.revoke("principal", f"local:{text}", reason="x"),
    "owner": lambda s, text: s.create("n", owner=text),
    "new owner": lambda s, text: s.classify("m", owner=text),
    "explain": lambda s, text: s.explain("load", "m", purpose=text),
    "tenant": lambda s, text: s.list(tenant=text),
    "model": lambda s, text: s.create(text),
    "tag": lambda s, text: s.tag("m@1", text),
    "classification": lambda s, text: s.create("n", classification=text),
}


@pytest.mark.parametrize("place", PLACES)
def test_texts_that_would_forge_lines(vault: Session, place: str) -> None:
    """Into messages, the log and the policy's input go printable texts alone."""
    for text in FORGING:
        with pytest.raises(InvalidRequest) as caught:
            PLACES[place](vault, text)
        assert caught.value.message.isprintable()


def test_texts_without_end(vault: Session) -> None:
    long = "x" * (1 << 20)
    for ask in (
        lambda: vault.revoke("principal", "local:x", reason=long),
        lambda: vault.revoke("principal", f"local:{long}", reason="x"),
        lambda: vault.load("m", purpose=long),
        lambda: vault.load("m", purpose="inference", ticket=long),
        lambda: vault.create("n", owner=long),
        lambda: vault.create(long),
        lambda: vault.list(filter=long),
        lambda: vault.list(tenant=long),
        lambda: vault.explain("load", "m", purpose=long),
        lambda: vault.tag("m@1", long),
    ):
        with pytest.raises(InvalidRequest) as caught:
            ask()
        assert len(caught.value.message) < 1000


def test_explain_for_another_grants_nothing(vault: Session) -> None:
    boss = Principal(
        id="local:boss", issuer="local", groups=("local:admins",), claims={}, issued_at=0,
        expires_at=0,
    )  # fmt: skip
    with as_somebody(vault, "job", "inference") as job:
        with pytest.raises(ModelVaultError):  # an oracle about others is an action of its own
            job.explain("load", "m", purpose="inference", subject=boss)
        mine = Principal(**{n: getattr(boss, n) for n in ("issuer", "issued_at", "expires_at")},
                         id="local:job", groups=("local:admins",), claims={})  # fmt: skip
        said = job.explain("rotate", "m", subject=mine)
        assert not said.allowed  # of oneself by one's token, whatever groups the question names
        with pytest.raises(AccessDenied):
            job.rotate("m")
    assert vault.leases(ended=True) == ()
    assert [e.action for e in vault.entries(limit=1000).entries][-3:] == [
        "explain", "explain", "rotate",
    ]  # fmt: skip


def test_revocations_taken_out_of_the_ledger_by_hand_leave_their_entry(
    home: Path, vault: Session
) -> None:
    """What the threat model says of who owns the ledger: limits are theirs, but the log tells."""
    vault.revoke("version", "m@1", reason="poisoned")
    change(home, "delete from revocations")
    vault.load("m", purpose="inference").close()
    assert "revoke" in [entry.action for entry in vault.entries(limit=1000).entries]
