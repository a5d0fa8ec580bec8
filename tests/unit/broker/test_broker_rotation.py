"""Rotation: the same bytes before, during and after; interrupted anywhere, finished later."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import pytest

from modelvault import canonical
from modelvault.broker import keycopy
from modelvault.crypto import derive
from modelvault.errors import (
    AccessDenied,
    Conflict,
    IntegrityError,
    ModelVaultError,
    NotFound,
    Unavailable,
)
from modelvault.ports.keys import WrappedKey
from support.vaults import Crash, Spy, Vault, allow, crash_at_call, deny

FILES = {"a.bin": bytes(range(100))}


@pytest.fixture
def stocked(vault: Vault) -> Vault:
    for number in range(3):
        vault.push("m", {"n": bytes([number]) * 50})
    return vault


def versions(vault: Vault) -> tuple[int, int]:
    return vault.keyring.versions(vault.kek("m"))


def wrapped_under(vault: Vault) -> set[int]:
    return {row.kek_version for row in vault.ledger.keys_below("default", "m", 999)}


def test_rotate(stocked: Vault) -> None:
    upload, draft = stocked.upload("m", {"n": b"late"})
    objects = stocked.objects()
    stocked.keys.calls.clear()
    before = {version: stocked.load(f"m@{version}") for version in (1, 2, 3)}
    done = stocked.broker.rotate(stocked.caller(), "m")
    assert (done.kek_version, done.rewrapped) == (2, 5)  # the content key too
    assert versions(stocked) == (2, 2)
    assert wrapped_under(stocked) == {2}
    assert stocked.ledger.model("default", "m").kek_floor == 2
    assert {version: stocked.load(f"m@{version}") for version in (1, 2, 3)} == before
    assert stocked.objects() == objects
    stocked.broker.commit(stocked.caller(), upload.id, draft)
    assert stocked.load("m") == {"n": b"late"}
    steps = [one.details["step"] for one in stocked.entries("rotate")]
    assert steps == ["floor", *["swap"] * 5, "retire"]
    assert stocked.keys.count("unwrap") == 7 + 1  # loads, and the content key of a commit


def test_each_rotation_is_a_new_one(stocked: Vault) -> None:
    for wanted in (2, 3, 4):
        assert stocked.broker.rotate(stocked.caller(), "m").kek_version == wanted
    assert stocked.load("m@1") == {"n": bytes(50)}


def test_a_model_without_versions(vault: Vault) -> None:
    assert vault.broker.rotate(vault.caller(), "m").rewrapped == 0
    assert versions(vault) == (2, 2)


def test_denied(stocked: Vault) -> None:
    stocked.policy.rule = lambda d: deny("no") if d["action"]["name"] == "rotate" else allow()
    with pytest.raises(AccessDenied):
        stocked.broker.rotate(stocked.caller(), "m")
    assert versions(stocked) == (1, 1)


def test_a_lease_at_every_step(stocked: Vault) -> None:
    """Before each call that a rotation makes, a load gives the same bytes."""
    loaded = []
    busy = [False]

    def load(_name: str) -> None:
        if not busy[0]:
            busy[0] = True
            loaded.append(stocked.load("m@2"))
            busy[0] = False

    for spy in (stocked.ledger, stocked.keys, stocked.store):
        spy.before = spy.after = load
    stocked.broker.rotate(stocked.caller(), "m")
    assert len(loaded) > 30
    assert loaded == [{"n": b"\x01" * 50}] * len(loaded)


def test_interrupted_at_every_call(vault: Vault) -> None:
    spies = (vault.ledger, vault.keys, vault.store)
    for _ in range(2):
        vault.push("m", FILES)
    before = sum(len(spy.calls) for spy in spies)
    vault.broker.rotate(vault.caller(), "m")
    total = sum(len(spy.calls) for spy in spies) - before
    assert total > 15
    for nth in range(1, total + 1):  # dying after a call is dying before the next
        interrupted(vault, spies, nth, "before")
    interrupted(vault, spies, total, "after")


def interrupted(vault: Vault, spies: tuple[Spy, ...], nth: int, when: str) -> None:
    _, start = versions(vault)
    hook = crash_at_call(nth)
    for spy in spies:
        setattr(spy, when, hook)
    with pytest.raises(Crash):
        vault.broker.rotate(vault.caller(), "m")
    for spy in spies:
        setattr(spy, when, lambda _name: None)
    done = start + 1
    finished = versions(vault) == (done, done) and wrapped_under(vault) == {done}
    assert vault.load("m@1") == vault.load("m@2") == FILES  # also half-way
    vault.broker.rotate(vault.caller(), "m")
    wanted = done + 1 if finished else done  # resumed, not doubled
    assert versions(vault) == (wanted, wanted)
    assert wrapped_under(vault) == {wanted}
    assert vault.load("m@1") == vault.load("m@2") == FILES
    copies = {keycopy.parse_name(name) for name in vault.objects("keys/")}
    for row in vault.ledger.keys_below("default", "m", 999):
        assert (row.artifact, row.kek_version) in copies


def test_two_rotations_at_once(stocked: Vault) -> None:
    failures: list[ModelVaultError] = []

    def rotate() -> None:
        try:
            stocked.broker.rotate(stocked.caller(), "m")
        except ModelVaultError as failure:
            failures.append(failure)

    threads = [threading.Thread(target=rotate) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    lowest, newest = versions(stocked)
    assert lowest == newest
    assert wrapped_under(stocked) == {newest}
    assert stocked.load("m@1") == {"n": bytes(50)}


def test_another_rotation_wins_each_swap(stocked: Vault) -> None:
    def other(name: str) -> None:
        if name == "swap_key":
            stocked.ledger.before = lambda _name: None
            stocked.broker.rotate(stocked.caller(), "m")

    stocked.ledger.before = other
    stocked.broker.rotate(stocked.caller(), "m")
    assert versions(stocked)[0] == versions(stocked)[1]
    assert stocked.load("m") == {"n": b"\x02" * 50}


@pytest.mark.parametrize("code", ["kek_version_retired", "key_moved"])
def test_a_rotation_that_gets_nowhere_says_so(stocked: Vault, code: str) -> None:
    def refuse(name: str) -> None:
        if name == ("rewrap" if code == "kek_version_retired" else "swap_key"):
            raise Conflict(code, "moved")

    stocked.keys.before = stocked.ledger.before = refuse
    with pytest.raises(Unavailable) as caught:
        stocked.broker.rotate(stocked.caller(), "m")
    assert caught.value.code == "rotation_stuck"


@pytest.mark.parametrize("call", ["rewrap", "swap_key"])
def test_other_conflicts_are_told(stocked: Vault, call: str) -> None:
    def refuse(name: str) -> None:
        if name == call:
            raise Conflict("odd", "odd")

    stocked.keys.before = stocked.ledger.before = refuse
    with pytest.raises(Conflict, match="odd"):
        stocked.broker.rotate(stocked.caller(), "m")


def test_a_key_that_went_away(stocked: Vault) -> None:
    def gone(name: str) -> None:
        if name == "swap_key":
            stocked.ledger.before = lambda _name: None
            raise NotFound("no_key", "gone")

    stocked.ledger.before = gone
    assert stocked.broker.rotate(stocked.caller(), "m").rewrapped == 4


def put(vault: Vault, name: str, content: bytes) -> None:
    def fill(_part: int, buffer: memoryview) -> None:
        buffer[:] = content

    vault.store.put(name, [len(content)], fill)


# Copies that lie where the rotation wants to put its own.
def good(vault: Vault, row: Any) -> bytes:
    context = vault_context(vault, row.artifact)
    [fresh] = vault.keyring.rewrap(vault.kek("m"), [(WrappedKey(row.wrapped, 1), context)])
    return copy_of(vault, row.artifact, fresh.kek_version, fresh.wrapped)


def of_another_artifact(vault: Vault, row: Any) -> bytes:
    other = vault.ledger.version("default", "m", 2).artifact
    context = vault_context(vault, other)
    wrapped = WrappedKey(vault.ledger.key(other).wrapped, 1)
    [fresh] = vault.keyring.rewrap(vault.kek("m"), [(wrapped, context)])
    return copy_of(vault, row.artifact, 2, fresh.wrapped)


def vault_context(vault: Vault, artifact: str) -> bytes:
    return derive.key_context(vault.id, "default", "m", artifact)


def copy_of(vault: Vault, artifact: str, kek_version: int, wrapped: bytes) -> bytes:
    return canonical.encode(
        keycopy.KeyCopy(
            vault=vault.id,
            tenant="default",
            model="m",
            artifact=artifact,
            kek_version=kek_version,
            wrapped=wrapped,
        )
    )


COPIES: dict[str, tuple[Any, bool]] = {
    "of an interrupted run": (good, True),
    "garbage": (lambda _v, _r: b"garbage", False),
    "empty": (lambda _v, _r: b"", False),
    "too large": (lambda _v, _r: b" " * 20_000, False),
    "of another artifact": (of_another_artifact, False),
    "of another version": (lambda v, r: copy_of(v, r.artifact, 1, r.wrapped), False),
    "altered": (lambda v, r: copy_of(v, r.artifact, 2, bytes(60)), False),
}


@pytest.mark.parametrize("case", COPIES)
def test_a_copy_that_is_there_already(stocked: Vault, case: str) -> None:
    make, adopted = COPIES[case]
    row = stocked.ledger.key(stocked.ledger.version("default", "m", 1).artifact)
    stocked.keyring.rotate(stocked.kek("m"))
    content = make(stocked, row)
    name = keycopy.name_of(row.artifact, 2)
    stocked.store.put(
        name, [len(content)], lambda _n, buffer: buffer.__setitem__(slice(None), content)
    )

    stocked.broker.rotate(stocked.caller(), "m")

    kept = bytearray(stocked.store.size(name))
    stocked.store.read_into(name, 0, memoryview(kept))
    assert (bytes(kept) == content) == adopted
    row = stocked.ledger.key(row.artifact)
    if not adopted:
        assert bytes(kept) == copy_of(stocked, row.artifact, 2, row.wrapped)
    # Either way the ledger holds what the key service made of its own row.
    assert stocked.load("m@1") == {"n": bytes(50)}


def test_a_copy_that_cant_be_judged_is_left(stocked: Vault) -> None:
    row = stocked.ledger.key(stocked.ledger.version("default", "m", 1).artifact)
    stocked.keyring.rotate(stocked.kek("m"))
    content = good(stocked, row)
    name = keycopy.name_of(row.artifact, 2)
    stocked.store.put(
        name, [len(content)], lambda _n, buffer: buffer.__setitem__(slice(None), content)
    )
    calls = []

    def away(called: str) -> None:
        calls.append(called)
        if calls.count("rewrap") == 2:
            raise Unavailable("key_service_unavailable", "away")

    stocked.keys.before = away
    with pytest.raises(Unavailable):
        stocked.broker.rotate(stocked.caller(), "m")
    assert name in stocked.objects("keys/")


def test_a_copy_that_vanishes_is_put_again(stocked: Vault) -> None:
    row = stocked.ledger.key(stocked.ledger.version("default", "m", 1).artifact)
    stocked.keyring.rotate(stocked.kek("m"))
    name = keycopy.name_of(row.artifact, 2)
    put(stocked, name, b"x")

    def vanish(called: str) -> None:
        if called == "size":
            stocked.store.before = lambda _name: None
            stocked.store.delete(name)

    stocked.store.before = vanish
    stocked.broker.rotate(stocked.caller(), "m")
    assert name in stocked.objects("keys/")


def test_a_wrapped_key_that_is_damaged_stops_it(stocked: Vault) -> None:
    row = stocked.ledger.key(stocked.ledger.version("default", "m", 2).artifact)
    broken = msgspec.structs.replace(row, wrapped=bytes(len(row.wrapped)))
    stocked.ledger.swap_key(broken, row.wrapped, None)
    with pytest.raises(IntegrityError):
        stocked.broker.rotate(stocked.caller(), "m")
    assert versions(stocked) == (1, 2)  # nothing was retired
    assert stocked.load("m@1") == {"n": bytes(50)}


@pytest.mark.parametrize(
    "name",
    ["keys/x", "keys/" + "0" * 32, "keys/" + "0" * 32 + "/0", "objects/" + "0" * 32,
     "keys/" + "0" * 32 + "/1\n"],
)  # fmt: skip
def test_names_that_arent_copies(name: str) -> None:
    assert keycopy.parse_name(name) is None
