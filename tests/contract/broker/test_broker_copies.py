"""Contract of Broker for copies between vaults: as giver and as receiver, near and far."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from modelvault.copies import ImportAsk
from modelvault.errors import AccessDenied, Conflict, IntegrityError
from support.copying import FILES, begin, carry, documents, hand_over, manifest_of
from support.vaults import Vault, allow, deny, make


@pytest.fixture
def peer(vault: Vault, tmp_path: Path) -> Iterator[Vault]:
    """Another vault, in this process; each trusts the other."""
    (tmp_path / "peer").mkdir()
    made = make(tmp_path / "peer")
    made.broker = made.another_broker(trusted={vault.id: vault.trust})
    vault.others[made.id] = made.trust  # type: ignore[attr-defined]
    yield made
    made.close()


def test_there_and_back_again(vault: Vault, peer: Vault) -> None:
    vault.create("m")
    vault.push("m", FILES, labels={"team": "search"})
    peer.create("n")
    peer.push("n", {"x": b"y"})
    vault.create("o")
    assert carry(vault, "m@1", peer, "n").version == 2
    assert peer.load("n@2") == FILES
    assert carry(peer, "n@1", vault, "o").version == 1
    assert vault.load("o") == {"x": b"y"}
    made = manifest_of(documents(vault, "o@1")).provenance.copied_from
    assert made is not None
    assert (made.vault, made.model, made.version) == (peer.id, "n", 1)


def test_an_import_is_an_upload_to_its_owner(vault: Vault, peer: Vault) -> None:
    vault.create("m")
    importing = begin(vault, "m", None)
    assert (importing.tenant, importing.model) == ("default", "m")
    vault.broker.abandon(vault.caller(), importing.id)
    peer.create("n")
    peer.push("n", FILES)
    with pytest.raises(AccessDenied) as caught:
        vault.broker.open_import(
            vault.caller(), ImportAsk(reference="m", source=_of_nobody(peer, vault))
        )
    assert caught.value.code == "untrusted_vault"


def _of_nobody(peer: Vault, vault: Vault):
    vault.others.clear()  # type: ignore[attr-defined]
    return documents(peer, "n@1")


def test_errors_are_the_brokers_own(vault: Vault, peer: Vault) -> None:
    vault.create("m")
    vault.push("m", FILES)
    peer.create("n")
    importing = begin(peer, "n", documents(vault, "m@1"))
    first = hand_over(vault, "m@1", importing)
    assert hand_over(vault, "m@1", importing).receipt == first.receipt
    vault.push("m", FILES)
    with pytest.raises(Conflict) as caught:
        hand_over(vault, "m@2", importing)
    assert caught.value.code == "ask_reused"
    vault.policy.rule = lambda d: deny("no") if d["action"]["name"] == "export" else allow()
    with pytest.raises(AccessDenied) as denied:
        hand_over(vault, "m@2", begin(peer, "n", documents(vault, "m@2")))
    assert denied.value.details["action"] == "export"
    carry(peer_with(peer), "p@1", vault, "m")
    with pytest.raises(Conflict) as again:
        begin(vault, "m", documents(peer, "p@1"))
    assert (again.value.code, again.value.details["version"]) == ("already_copied", 3)
    peer.create("q")
    peer.push("q", FILES)
    with pytest.raises(IntegrityError) as other:
        carry(peer, "q@1", vault, "m", change=_cut)
    assert other.value.code == "not_for_us"


def peer_with(peer: Vault) -> Vault:
    peer.create("p")
    peer.push("p", FILES)
    return peer


def _cut(draft):
    return msgspec.structs.replace(draft, sealed=draft.sealed[:-1])
