"""What the refused are told to do next."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from modelvault.errors import AccessDenied, NotFound
from support.vaults import Vault, allow, deny

FILES = {"a.bin": b"a" * 100}


@pytest.mark.parametrize(
    ("caller", "reasons", "told"),
    [
        ("bob", ["no_grant"], "ask local:alice, the model's owner"),
        ("alice", ["no_grant"], "ask an admin of this vault"),
        ("bob", [], "ask local:alice, the model's owner"),
        ("bob", ["ticket_required"], "give a ticket (--ticket)"),
        ("bob", ["ticket_required", "owner_only"], "ask local:alice, the model's owner"),
        ("bob", ["purpose_required"], "name a purpose (--purpose)"),
        ("alice", ["unknown_purpose"], "name a purpose that the policy's data.json has"),
        ("alice", ["unknown_classification"], "classify the model"),
        ("alice", ["pickle_not_allowed"], "leave the pickles out (--file)"),
        ("alice", ["site:closed"], "ask an admin of this vault"),
    ],
)
def test_what_would_help(vault: Vault, caller: str, reasons: list[str], told: str) -> None:
    vault.broker.create(vault.caller(), "n", owner="local:alice", classification="internal")
    vault.push("n", FILES)
    vault.policy.rule = lambda d: deny(*reasons) if d["action"]["name"] == "delete" else allow()
    with pytest.raises(AccessDenied) as caught:
        vault.broker.delete(vault.caller(caller), "n")
    hint = caught.value.hint
    assert hint.startswith(told)
    assert hint.endswith(f"; decision {caught.value.details['decision_id']}")


def test_a_grant_for_what_one_has_made_is_named_where_it_would_do(vault: Vault) -> None:
    vault.broker.create(vault.caller(), "n", owner="local:olga", classification="internal")
    vault.push("n", FILES)
    told = {}
    vault.policy.rule = lambda d: deny("no_grant") if d["action"]["name"] == "delete" else allow()
    for caller, reference in (("alice", "n@1"), ("alice", "n"), ("bob", "n@1")):
        with pytest.raises(AccessDenied) as caught:
            vault.broker.delete(vault.caller(caller), reference)
        told[caller, reference] = caught.value.hint
    assert [key for key, hint in told.items() if "own_versions" in hint] == [("alice", "n@1")]


def test_whoever_may_not_create_is_sent_to_an_admin(vault: Vault) -> None:
    vault.policy.rule = lambda _d: deny("no_grant")
    with pytest.raises(AccessDenied) as caught:
        vault.broker.create(vault.caller(), "n", owner="local:alice", classification="internal")
    assert caught.value.hint.startswith("ask an admin of this vault; ")


def test_what_is_said_to_be_shipped_is(vault: Vault) -> None:
    from modelvault.broker import advice

    shipped = json.loads((files("modelvault_policies") / "modelvault" / "data.json").read_text())
    for reason, kind in (
        ("unknown_purpose", "purposes"),
        ("unknown_classification", "classifications"),
    ):
        assert f"(shipped: {', '.join(shipped[kind])})" in advice._LIFTED_BY[reason]


@pytest.mark.parametrize(("reference", "told"), [("m", "push one"), ("m@1", "modelvault show m")])
def test_where_versions_come_from(vault: Vault, reference: str, told: str) -> None:
    with pytest.raises(NotFound) as caught:
        vault.lease(reference)
    assert (caught.value.code, told in caught.value.hint) == ("no_version", True)


def test_models_are_made_before_pushes(vault: Vault) -> None:
    with pytest.raises(NotFound) as caught:
        vault.push("nosuch", FILES)
    assert "`modelvault create`" in caught.value.hint
