"""create, classify, tag, delete, and what list, show and pull then tell."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from modelvault.artifact import trust as trusting
from modelvault.artifact.trust import Seen
from modelvault.errors import (
    AccessDenied,
    Conflict,
    IntegrityError,
    InvalidRequest,
    NotFound,
    Unavailable,
)
from modelvault.record import ModelRecord
from modelvault.reference import Reference
from support.forged_ledger import ForgedLedger
from support.vaults import Crash, Vault, allow, crash_at, deny

FILES = {"a.bin": b"a" * 100}


def only(action: str, *, deny_it: bool = True) -> Any:
    return lambda d: deny("no") if (d["action"]["name"] == action) == deny_it else allow()


# create


def test_create(vault: Vault) -> None:
    made = vault.broker.create(
        vault.caller("bob"), "team/new", owner="local:carol", classification="restricted"
    )
    assert (made.tenant, made.model, made.owner, made.classification) == (
        "team", "new", "local:carol", "restricted",
    )  # fmt: skip
    assert (made.versions, made.latest, made.size, made.tags) == (0, None, 0, ())
    asked = vault.policy.asked[-1]["resource"]
    assert (asked["owner"], asked["classification"]) == ("local:carol", "restricted")
    entry = vault.entries("create")[-1]
    assert (entry.actor, entry.tenant, entry.model) == ("local:bob", "team", "new")
    vault.push("team/new", FILES)
    assert vault.load("team/new") == FILES


def test_the_creator_owns_it_by_default(vault: Vault) -> None:
    made = vault.broker.create(vault.caller("bob"), "n", owner=None, classification="internal")
    assert made.owner == "local:bob"


@pytest.mark.parametrize(
    ("reference", "owner", "classification", "code"),
    [
        ("n:tag", None, "internal", "bad_reference"),
        ("n@1", None, "internal", "bad_reference"),
        ("../n", None, "internal", "bad_reference"),
        ("n", None, "Internal", "bad_document"),
        ("n", None, "", "bad_document"),
        ("n", "x" * 257, "internal", "bad_document"),
    ],
)
def test_create_refuses(
    vault: Vault, reference: str, owner: str | None, classification: str, code: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        vault.broker.create(vault.caller(), reference, owner=owner, classification=classification)
    assert caught.value.code == code
    assert vault.keys.count("create") == 1  # that of model m


@pytest.mark.parametrize("hidden", [False, True])
def test_a_name_is_given_once(vault: Vault, hidden: bool) -> None:
    if hidden:
        vault.broker.delete(vault.caller(), "m")
    with pytest.raises(Conflict) as caught:
        vault.create("m")
    assert caught.value.code == "model_exists"
    assert ("was deleted" in caught.value.message, "there is a" in caught.value.message) == (
        hidden,
        not hidden,
    )


def test_create_denied_is_a_denial(vault: Vault) -> None:
    """Not NotFound: the caller named what it wants to make."""
    vault.policy.rule = lambda _d: deny("no_grant")
    with pytest.raises(AccessDenied) as caught:
        vault.create("n")
    assert caught.value.details["reasons"] == ["no_grant"]
    assert vault.keys.count("create") == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_between_kek_and_model(vault: Vault, when: str) -> None:
    setattr(vault.keys, when, crash_at("create"))
    with pytest.raises(Crash):
        vault.create("n")
    vault.keys.before = vault.keys.after = lambda _name: None
    vault.create("n")
    vault.push("n", FILES)
    assert vault.load("n") == FILES


def test_two_creators_at_once(vault: Vault) -> None:
    def other(name: str) -> None:
        if name == "create":
            vault.keys.before = lambda _name: None
            vault.create("n")

    vault.keys.before = other
    with pytest.raises(Conflict) as caught:
        vault.create("n")
    assert caught.value.code == "model_exists"


# classify


def test_classify(vault: Vault) -> None:
    made = vault.broker.classify(vault.caller(), "m", owner=None, classification="restricted")
    assert (made.owner, made.classification) == ("local:alice", "restricted")
    made = vault.broker.classify(vault.caller(), "m", owner="local:bob", classification=None)
    assert (made.owner, made.classification) == ("local:bob", "restricted")
    row = vault.ledger.model("default", "m")
    record = msgspec.json.decode(row.record.payload, type=ModelRecord)
    assert (record.serial, record.owner, record.classification) == (3, "local:bob", "restricted")
    entry = vault.entries("classify")[-1]
    assert (entry.details["owner_before"], entry.details["owner"]) == ("local:alice", "local:bob")
    vault.push("m", FILES)
    vault.lease("m")
    assert vault.policy.asked[-1]["resource"]["classification"] == "restricted"


def test_classify_nothing(vault: Vault) -> None:
    with pytest.raises(InvalidRequest):
        vault.broker.classify(vault.caller(), "m", owner=None, classification=None)


def test_classify_denied(vault: Vault) -> None:
    vault.policy.rule = only("classify")
    with pytest.raises(AccessDenied):
        vault.broker.classify(vault.caller(), "m", owner="local:bob", classification=None)


def test_two_classify_at_once(vault: Vault) -> None:
    def other(name: str) -> None:
        if name == "update_record":
            vault.ledger.before = lambda _name: None
            vault.broker.classify(vault.caller(), "m", owner="local:x", classification=None)

    vault.ledger.before = other
    with pytest.raises(Conflict) as caught:
        vault.broker.classify(vault.caller(), "m", owner="local:y", classification=None)
    assert caught.value.code == "serial_moved"


# tag


def verified(vault: Vault, signed: Any, tag: str) -> Any:
    return trusting.verify(signed, Reference("default", "m", tag=tag), vault.trust, Seen())


def test_tags_move_forth_and_back(vault: Vault) -> None:
    for _ in range(2):
        vault.push("m", FILES)
    for serial, target in enumerate(["m@1", "m@2", "m@1", "m"], 1):
        signed = vault.broker.tag(vault.caller(), target, "prod")
        record = verified(vault, signed, "prod").tag
        assert (record.serial, record.version) == (serial, 1 if target == "m@1" else 2)
    entry = vault.entries("tag")[-1]
    assert entry.details == {"tag": "prod", "serial": 4, "version_before": 1}
    assert vault.lease("m:prod").lease.version == 2


def test_a_tag_of_a_tag(vault: Vault) -> None:
    vault.push("m", FILES)
    vault.broker.tag(vault.caller(), "m", "staging")
    vault.push("m", FILES)
    signed = vault.broker.tag(vault.caller(), "m:staging", "prod")
    assert verified(vault, signed, "prod").tag.version == 1


def test_a_tag_that_means_it_already(vault: Vault) -> None:
    vault.push("m", FILES)
    one = vault.broker.tag(vault.caller(), "m", "prod")
    assert vault.broker.tag(vault.caller(), "m@1", "prod") == one
    assert len(vault.entries("tag")) == 1


@pytest.mark.parametrize(
    ("reference", "tag", "error"),
    [
        ("m", "a b", InvalidRequest),
        ("m", "../x", InvalidRequest),
        ("m", "x@1", InvalidRequest),
        ("m", "", InvalidRequest),
        ("m@2", "prod", NotFound),
        ("n", "prod", NotFound),
    ],
)
def test_tag_refuses(vault: Vault, reference: str, tag: str, error: type[Exception]) -> None:
    vault.push("m", FILES)
    with pytest.raises(error):
        vault.broker.tag(vault.caller(), reference, tag)
    assert vault.ledger.tags("default", "m") == []


def test_tag_denied(vault: Vault) -> None:
    vault.push("m", FILES)
    vault.policy.rule = only("tag")
    with pytest.raises(AccessDenied):
        vault.broker.tag(vault.caller(), "m", "prod")


def test_two_tags_at_once(vault: Vault) -> None:
    """Whoever moves it last is right: a lost race is no reason to give up."""
    for _ in range(2):
        vault.push("m", FILES)

    def other(name: str) -> None:
        if name == "put_tag":
            vault.ledger.before = lambda _name: None
            vault.broker.tag(vault.caller(), "m@1", "prod")

    vault.ledger.before = other
    vault.broker.tag(vault.caller(), "m@2", "prod")
    (tag,) = vault.ledger.tags("default", "m")
    assert (tag.version, tag.serial) == (2, 2)


def test_a_tag_that_never_stands_still(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    vault.push("m", FILES)

    def lost(*_args: object) -> None:
        raise Conflict("serial_moved", "somebody else was first")

    monkeypatch.setattr(vault.ledger, "put_tag", lost, raising=False)
    with pytest.raises(Conflict) as caught:
        vault.broker.tag(vault.caller(), "m", "prod")
    assert caught.value.code == "serial_moved"
    assert caught.value.hint


# delete


def test_delete_a_version(vault: Vault) -> None:
    for _ in range(2):
        vault.push("m", FILES)
    vault.broker.delete(vault.caller(), "m@2")
    detail = vault.broker.show(vault.caller(), "m")
    assert ([one.version for one in detail.versions], detail.summary.latest) == ([1], 1)
    with pytest.raises(NotFound):
        vault.broker.show(vault.caller(), "m@2")
    assert vault.push("m", FILES).version == 3


def test_delete_by_digest(vault: Vault) -> None:
    published = vault.push("m", FILES)
    vault.broker.delete(vault.caller(), f"m@{published.manifest}")
    assert vault.broker.show(vault.caller(), "m").versions == ()


def test_delete_a_model(vault: Vault) -> None:
    vault.push("m", FILES)
    vault.broker.delete(vault.caller(), "m")
    assert vault.broker.list(vault.caller(), tenant="default") == ()
    for call in (
        lambda: vault.broker.show(vault.caller(), "m"),
        lambda: vault.broker.delete(vault.caller(), "m"),
        lambda: vault.open("m", FILES),
        lambda: vault.broker.rotate(vault.caller(), "m"),
    ):
        with pytest.raises(NotFound) as caught:
            call()
        assert caught.value.code == "no_model"


def test_a_tagged_version_stays(vault: Vault) -> None:
    vault.push("m", FILES)
    vault.broker.tag(vault.caller(), "m", "prod")
    with pytest.raises(Conflict) as caught:
        vault.broker.delete(vault.caller(), "m@1")
    assert caught.value.code == "tagged"


def test_tags_go_only_where_tag_is_allowed(vault: Vault) -> None:
    vault.push("m", FILES)
    vault.broker.tag(vault.caller(), "m", "prod")
    vault.policy.rule = only("tag")
    with pytest.raises(AccessDenied):
        vault.broker.delete(vault.caller(), "m@1", ("prod",))
    assert [tag.tag for tag in vault.ledger.tags("default", "m")] == ["prod"]


def test_a_tag_isnt_deleted(vault: Vault) -> None:
    with pytest.raises(InvalidRequest):
        vault.broker.delete(vault.caller(), "m:prod")


@pytest.mark.parametrize("reference", ["m", "m@1"])
def test_delete_denied(vault: Vault, reference: str) -> None:
    vault.push("m", FILES)
    vault.policy.rule = only("delete")
    with pytest.raises(AccessDenied):
        vault.broker.delete(vault.caller(), reference)
    assert vault.load("m") == FILES


# list, show, pull


def test_list(vault: Vault) -> None:
    for name in ("b", "bert", "c", "t/bert"):
        vault.create(name)
    vault.push("bert", FILES)
    vault.push("bert", FILES | {"b": b"b"})
    vault.broker.tag(vault.caller(), "bert@1", "prod")

    def names(**options: Any) -> list[str]:
        found = vault.broker.list(vault.caller(), **({"tenant": "default"} | options))
        return [one.model for one in found]

    assert names() == ["b", "bert", "c", "m"]
    assert names(tenant="t") == ["bert"]
    assert names(filter="b*") == ["b", "bert"]
    assert names(limit=2) == ["b", "bert"]
    assert names(limit=2, after="bert") == ["c", "m"]
    assert names(filter="B*") == []
    with pytest.raises(InvalidRequest):
        names(filter="*" * 257)
    bert = vault.broker.list(vault.caller(), tenant="default", filter="bert")[0]
    assert (bert.versions, bert.latest, bert.size) == (2, 2, 101)
    assert [(tag.tag, tag.version, tag.serial) for tag in bert.tags] == [("prod", 1, 1)]


def test_list_holds_only_what_may_be_shown(vault: Vault) -> None:
    vault.create("secret")
    vault.policy.rule = lambda d: (
        deny("no") if d["resource"]["id"] == "secret" and d["action"]["name"] == "show" else allow()
    )
    assert [one.model for one in vault.broker.list(vault.caller(), tenant="default")] == ["m"]


def test_list_goes_on_behind_what_may_not_be_shown(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelvault.broker.catalogue._PAGE", 2)
    for name in "abcde":
        vault.create(name)
    vault.policy.rule = lambda d: deny("no") if d["resource"]["id"] in "abcd" else allow()
    found = vault.broker.list(vault.caller(), tenant="default", limit=2)
    assert [one.model for one in found] == ["e", "m"]


def test_list_denied(vault: Vault) -> None:
    vault.policy.rule = only("list")
    with pytest.raises(AccessDenied) as caught:
        vault.broker.list(vault.caller(), tenant="default")
    assert caught.value.details["model"] is None
    assert "an admin of this vault" in caught.value.hint


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_pages_are_bounded(vault: Vault, limit: int) -> None:
    for call in (
        lambda: vault.broker.list(vault.caller(), tenant="default", limit=limit),
        lambda: vault.broker.leases(vault.caller(), limit=limit),
        lambda: vault.broker.entries(vault.caller(), limit=limit),
    ):
        with pytest.raises(InvalidRequest) as caught:
            call()
        assert caught.value.code == "bad_limit"


def test_show(vault: Vault) -> None:
    empty = vault.broker.show(vault.caller(), "m")
    assert (empty.versions, empty.signed) == ((), None)
    one = vault.push("m", FILES)
    vault.push("m", FILES)
    vault.broker.tag(vault.caller(), "m@1", "prod")
    detail = vault.broker.show(vault.caller(), "m:prod")
    assert verified(vault, detail.signed, "prod").digest == one.manifest
    newest = detail.versions[0]
    assert (newest.version, newest.size, newest.files, newest.kek_version) == (2, 100, 1, 1)
    assert newest.created_by == "local:alice"
    for absent in ("m@3", "m:none", "m@sha256:" + "0" * 64):
        with pytest.raises(NotFound):
            vault.broker.show(vault.caller(), absent)


def test_show_tells_of_a_revoked_version(vault: Vault) -> None:
    for _ in range(2):
        vault.push("m", FILES)
    vault.broker.revoke(vault.caller(), kind="version", target="m@1", reason="leaked")
    newest, oldest = vault.broker.show(vault.caller(), "m").versions
    assert oldest.revoked_at == vault.entries("revoke")[-1].at
    assert newest.revoked_at is None
    told = msgspec.json.decode(msgspec.json.encode([newest, oldest]))
    assert ["revoked_at" in one for one in told] == [False, True]  # older clients read the rest


def test_show_without_a_key(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    vault.push("m", FILES)

    def gone(_artifact: str) -> Any:
        raise NotFound("no_key", "gone")

    monkeypatch.setattr(vault.ledger, "key", gone, raising=False)
    assert vault.broker.show(vault.caller(), "m").versions[0].kek_version is None


def test_show_denied_is_not_found(vault: Vault) -> None:
    vault.policy.rule = only("show")
    with pytest.raises(NotFound) as caught:
        vault.broker.show(vault.caller(), "m")
    with pytest.raises(NotFound) as absent:
        vault.broker.show(vault.caller(), "x")
    assert caught.value.message == absent.value.message.replace("model x", "model m")
    assert [one.action for one in vault.entries() if one.outcome == "denied"] == ["show"]


def test_pull(vault: Vault) -> None:
    one = vault.push("m", FILES)
    vault.keys.calls.clear()
    signed = vault.broker.pull(vault.caller(), "m@1")
    assert signed.manifest.digest == one.manifest
    assert vault.entries("pull")[-1].outcome == "allowed"
    vault.policy.rule = only("pull")
    with pytest.raises(AccessDenied):
        vault.broker.pull(vault.caller(), "m@1")
    assert vault.keys.count("unwrap") == 0


def test_whoami(vault: Vault) -> None:
    principal = vault.broker.whoami(vault.caller("bob", groups=("x",)))
    assert (principal.id, principal.groups) == ("local:bob", ("local:x",))
    assert vault.policy.asked == [vault.policy.asked[0]]  # create's alone


# what the ledger says against its documents


def tampered(vault: Vault, **changes: object) -> Any:
    """A broker whose ledger answers with rows that somebody changed."""

    def changed(change: Any) -> Any:
        return lambda row: msgspec.structs.replace(row, **change)

    rows = {name: changed(change) for name, change in changes.items()}
    return vault.another_broker(ledger=ForgedLedger(vault.ledger, **rows))


@pytest.mark.parametrize(
    ("method", "change"),
    [
        ("model", {"serial": 9}),
        ("model", {"tenant": "other"}),
        ("version", {"digest": "sha256:" + "0" * 64}),
        ("version", {"artifact": "0" * 32}),
        ("version", {"version": 2}),
        ("tag", {"version": 2}),
        ("tag", {"serial": 7}),
        ("tag", {"tag": "other"}),
    ],
)
def test_rows_that_disagree_with_their_documents(
    vault: Vault, method: str, change: dict[str, object]
) -> None:
    vault.push("m", FILES)
    vault.push("m", FILES)
    vault.broker.tag(vault.caller(), "m@1", "prod")
    broker = tampered(vault, **{method: change})
    vault.keys.calls.clear()
    with pytest.raises(IntegrityError):
        vault.lease("m:prod", broker=broker)
    assert vault.keys.count("unwrap") == 0


def test_a_tag_whose_version_is_hidden_all_the_same(vault: Vault) -> None:
    vault.push("m", FILES)
    vault.broker.tag(vault.caller(), "m@1", "prod")
    with pytest.raises(NotFound) as caught:
        vault.lease("m:prod", broker=tampered(vault, version={"hidden_at": 1}))
    assert caught.value.code == "no_version"


def test_columns_are_nobodys_word(vault: Vault) -> None:
    """Owner and classification are the record's, whatever the row says."""
    vault.push("m", FILES)
    broker = tampered(vault, model={"owner": "local:mallory", "classification": "public"})
    vault.lease("m", broker=broker)
    resource = vault.policy.asked[-1]["resource"]
    assert (resource["owner"], resource["classification"]) == ("local:alice", "internal")


def test_a_newest_version_that_is_gone(vault: Vault) -> None:
    """The head's row may have been removed: then the newest that stands is meant."""
    for _ in range(3):
        vault.push("m", FILES)
    vault.broker.delete(vault.caller(), "m@3")
    told = msgspec.structs.replace(vault.entries()[0], seq=0, id="d" * 32)
    vault.ledger.drop_version("default", "m", 3, told)
    assert vault.lease("m").lease.version == 2
    vault.broker.delete(vault.caller(), "m@1")
    vault.broker.delete(vault.caller(), "m@2")
    with pytest.raises(NotFound):
        vault.lease("m")


def test_outages_pass_through(vault: Vault) -> None:
    def away(_name: str) -> None:
        raise Unavailable("ledger_unavailable", "away")

    vault.ledger.before = away
    with pytest.raises(Unavailable):
        vault.broker.show(vault.caller(), "m")
