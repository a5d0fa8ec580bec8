"""The client's half of a copy: what it verifies of both vaults, and how it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from modelvault.access import Caller
from modelvault.client.context import Context
from modelvault.client.copied import Copied
from modelvault.client.copy import copy
from modelvault.client.direct import Direct
from modelvault.client.pins import Pins
from modelvault.copies import INVITATION_TYPE, Invitation
from modelvault.crypto import dsse
from modelvault.errors import AccessDenied, IntegrityError, Unavailable
from modelvault.reference import Reference
from support.copying import FILES, pair
from support.honest import Keys
from support.vaults import Vault, allow, deny

Change = Callable[[Any], Any]


class Bent:
    """A broker whose answer to one call is changed, or which fails before or after it."""

    def __init__(self, broker: object) -> None:
        self._broker = broker
        self.answers: dict[str, Change] = {}
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._broker, name)

        def call(*args: Any, **options: Any) -> Any:
            self.calls.append(name)
            return self.answers.get(name, lambda answer: answer)(found(*args, **options))

        return call


class Holder:
    """Credentials of alice's."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def caller(self, key_hash: str | None = None) -> Caller:
        return self._vault.caller(bound_to=key_hash)


class Both:
    def __init__(self, giver: Vault, receiver: Vault, journals: Path) -> None:
        self.vaults = giver, receiver
        self.brokers = Bent(giver.broker), Bent(receiver.broker)
        self.contexts = tuple(
            Context(
                broker=broker,  # type: ignore[arg-type]
                steward=broker,  # type: ignore[arg-type]
                places=Direct(vault.store),  # type: ignore[arg-type]
                credentials=Holder(vault),  # type: ignore[arg-type]
                trust=vault.trust,
                pins=Pins(None, vault.id),
                clock=vault.clock,
                threads=1,
                journals=journals,
            )
            for vault, broker in zip(self.vaults, self.brokers, strict=True)
        )
        self.journals = journals

    def copy(self, **options: Any) -> Copied:
        return copy(*self.contexts, Reference.parse("m"), Reference.parse("n:new"), **options)

    def bend(self, side: int, call: str, change: Change) -> None:
        self.brokers[side].answers[call] = change


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Both]:
    with pair(tmp_path) as (giver, receiver):
        yield Both(giver, receiver, tmp_path / "journals")


def test_a_copy_and_its_repetition(both: Both) -> None:
    told: list[tuple[int, int]] = []
    made = both.copy(progress=lambda *now: told.append(now))
    assert (made.version, made.tag, made.new, made.files) == (1, "new", True, 3)
    assert told[-1] == (made.size, made.size)
    assert both.vaults[1].load("n:new") == FILES
    assert list(both.journals.iterdir()) == []
    again = both.copy()
    assert (again.version, again.new, again.manifest) == (1, False, made.manifest)


def other_key(both: Both) -> Change:
    """The receiver's broker, or whoever stands in its place, invites with an unknown key."""

    def change(importing: Any) -> Any:
        forged = Keys(both.vaults[1].id).sign(
            "manifest", INVITATION_TYPE, importing.invitation.payload
        )
        return replace(importing, invitation=forged)

    return change


def another_model(both: Both) -> Change:
    def change(importing: Any) -> Any:
        made = replace(Invitation.from_bytes(importing.invitation.payload), model="other")
        sign = partial(both.vaults[1].keyring.sign, "manifest")
        return replace(importing, invitation=dsse.sign(INVITATION_TYPE, made.to_bytes(), sign))

    return change


def another_manifest(_both: Both) -> Change:
    return lambda handed: replace(handed, manifest="sha256:" + "00" * 32)


def another_import(_both: Both) -> Change:
    return lambda handed: replace(handed, upload="00" * 16)


def an_older_version(both: Both) -> Change:
    def change(_published: Any) -> Any:
        receiver = both.vaults[1]
        return receiver.push("n", {"a.bin": b"something else"})

    return change


@pytest.mark.parametrize(
    ("side", "call", "lie", "code"),
    [
        (1, "open_import", other_key, "unknown_key"),
        (1, "open_import", another_model, "wrong_vault"),
        (0, "hand_over", another_manifest, "wrong_version"),
        (0, "hand_over", another_import, "wrong_version"),
        (1, "commit_import", an_older_version, "not_what_was_copied"),
    ],
)
def test_a_lie_is_noticed(both: Both, side: int, call: str, lie: Any, code: str) -> None:
    both.bend(side, call, lie(both))
    with pytest.raises(IntegrityError) as caught:
        both.copy()
    assert caught.value.code == code
    assert not (both.journals.exists() and list(both.journals.iterdir()))


def test_ciphertext_that_was_altered_isnt_carried(both: Both) -> None:
    giver, receiver = both.vaults
    (name, *_) = sorted(giver.objects(), key=lambda each: -giver.store.size(each))
    path = giver.root / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    with pytest.raises(IntegrityError) as caught:
        both.copy()
    assert caught.value.code == "altered"
    assert receiver.broker.show(receiver.caller(), "n").versions == ()


def test_a_refusal_comes_before_the_files(both: Both) -> None:
    giver, receiver = both.vaults
    giver.policy.rule = lambda d: deny("no") if d["action"]["name"] == "export" else allow()
    with pytest.raises(AccessDenied):
        both.copy()
    assert receiver.objects() == []
    assert "abandon" in both.brokers[1].calls


@pytest.mark.parametrize("call", ["open_import", "commit_import"])
def test_an_answer_that_was_lost(both: Both, call: str) -> None:
    """What was done stands, and the next copy finds or finishes it, with one grant of keys."""

    def lost(_answer: Any) -> Any:
        raise Unavailable("cut", "the answer was lost")

    both.bend(1, call, lost)
    with pytest.raises(Unavailable):
        both.copy()
    both.brokers[1].answers.clear()
    made = both.copy()
    assert made.version == 1
    assert both.vaults[1].load("n:new") == FILES
    assert both.brokers[0].calls.count("hand_over") == 1
    assert list(both.journals.iterdir()) == []


def test_an_invitation_that_is_used_up_begins_anew(both: Both) -> None:
    """The giver's key service failed once the grant stood: the next copy asks with another one."""

    def fail(name: str) -> None:
        if name == "unwrap":
            raise Unavailable("key_service_unavailable", "down")

    giver = both.vaults[0]
    giver.keys.before = fail
    with pytest.raises(Unavailable):
        both.copy()
    giver.keys.before = lambda _name: None
    assert both.copy().version == 1
    assert both.brokers[1].calls.count("open_import") == 2


def test_a_journal_of_an_import_that_is_gone(both: Both) -> None:
    def fail(name: str) -> None:
        if name == "take_in":
            raise Unavailable("ledger_unavailable", "down")

    receiver = both.vaults[1]
    receiver.ledger.before = fail
    with pytest.raises(Unavailable):
        both.copy()
    receiver.ledger.before = lambda _name: None
    assert len(list(both.journals.iterdir())) == 1
    for vault in both.vaults:
        vault.clock.advance(10 * 24 * 3600)
    receiver.broker.gc(receiver.caller())
    assert both.copy().version == 1
