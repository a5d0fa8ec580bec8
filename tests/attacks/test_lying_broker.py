"""A broker that lies, between a real client and the real broker of an embedded vault.

Each lie answers with something that the real broker made for another question. The client must
notice, use no key, read no object, and believe nothing of it afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelvault import connect, wiring
from modelvault.access import Caller
from modelvault.client.direct import Direct
from modelvault.client.session import Session
from modelvault.errors import IntegrityError
from modelvault.lease import Lease, LeaseAsk
from modelvault.record import SignedVersion
from support.homes import isolated

Lie = Callable[["Liar", Caller, LeaseAsk], Lease]


class Liar:
    """Passes everything on to the real broker but the answer to one kind of question."""

    def __init__(self, real: Any, lie: Lie) -> None:
        self.real = real
        self.lie = lie
        self.old: SignedVersion | None = None
        self.foreign: SignedVersion | None = None

    def lease(self, caller: Caller, ask: LeaseAsk) -> Lease:
        return self.lie(self, caller, ask)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class Watched:
    """The store; a lie must be noticed before anything is read."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.reads = 0

    def read_into(self, *args: Any) -> None:
        self.reads += 1
        self.real.read_into(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def asking(liar: Liar, caller: Caller, ask: LeaseAsk, **changes: object) -> Lease:
    answer: Lease = liar.real.lease(caller, msgspec.structs.replace(ask, **changes))
    return answer


def another_models_lease(liar: Liar, caller: Caller, ask: LeaseAsk) -> Lease:
    return asking(liar, caller, ask, reference="other:prod")


def another_models_keys(liar: Liar, caller: Caller, ask: LeaseAsk) -> Lease:
    theirs = asking(liar, caller, ask, reference="other:prod", nonce=bytes(16))
    return msgspec.structs.replace(asking(liar, caller, ask), sealed=theirs.sealed)


def another_versions_lease(liar: Liar, caller: Caller, ask: LeaseAsk) -> Lease:
    return asking(liar, caller, ask, reference="m@1")


def another_files_keys(liar: Liar, caller: Caller, ask: LeaseAsk) -> Lease:
    theirs = asking(liar, caller, ask, files=("b.txt",))
    return msgspec.structs.replace(theirs, paths=("a.txt",))


def another_asks_lease(liar: Liar, caller: Caller, ask: LeaseAsk) -> Lease:
    return asking(liar, caller, ask, nonce=bytes(16))


def another_purposes_lease(liar: Liar, caller: Caller, ask: LeaseAsk) -> Lease:
    return asking(liar, caller, ask, purpose="evaluation")


def a_swapped_manifest(liar: Liar, caller: Caller, ask: LeaseAsk) -> Lease:
    old = asking(liar, caller, ask, reference="m@1", nonce=bytes(16))
    lease = asking(liar, caller, ask)
    signed = msgspec.structs.replace(lease.signed, manifest=old.signed.manifest)
    return msgspec.structs.replace(lease, signed=signed)


def an_older_tag_record(liar: Liar, caller: Caller, ask: LeaseAsk) -> Lease:
    """All of it genuine, all of it from before the tag was moved, keys and all."""
    assert liar.old is not None
    lease = asking(liar, caller, ask, reference="m@1")
    return msgspec.structs.replace(lease, signed=liar.old)


def another_vaults_records(liar: Liar, caller: Caller, ask: LeaseAsk) -> Lease:
    assert liar.foreign is not None
    return msgspec.structs.replace(asking(liar, caller, ask), signed=liar.foreign)


def more_than_was_asked(liar: Liar, caller: Caller, ask: LeaseAsk) -> Lease:
    return asking(liar, caller, ask, files=None)


def a_longer_list_of_the_same_keys(liar: Liar, caller: Caller, ask: LeaseAsk) -> Lease:
    lease = asking(liar, caller, ask)
    return msgspec.structs.replace(lease, paths=(*lease.paths, *lease.paths))


LIES: list[tuple[Lie, str]] = [
    (another_models_lease, "wrong_model"),
    (another_models_keys, "not_for_us"),
    (another_versions_lease, "missing_tag_record"),
    (another_files_keys, "not_for_us"),
    (another_asks_lease, "not_for_us"),
    (another_purposes_lease, "not_for_us"),
    (a_swapped_manifest, "wrong_version"),
    (an_older_tag_record, "rollback"),
    (another_vaults_records, "unknown_key"),
    (more_than_was_asked, "not_what_was_asked"),
    (a_longer_list_of_the_same_keys, "not_what_was_asked"),
]


def fill(session: Session, folder: Path) -> None:
    """`m` in two versions whose tag moved from the first to the second, and `other`."""
    folder.mkdir(exist_ok=True)
    for name in ("m", "other"):
        session.create(name)
    for number, reference in enumerate(("m:prod", "m:prod", "other:prod")):
        for name in ("a.txt", "b.txt"):
            (folder / name).write_text(f"{name} {number}")
        session.push(folder, reference)


@pytest.fixture
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    isolated(tmp_path, monkeypatch)
    wiring.init()
    with connect() as session:
        yield session


@pytest.mark.parametrize(("lie", "code"), LIES, ids=[lie.__name__ for lie, _ in LIES])
def test_a_lie_is_noticed(vault: Session, tmp_path: Path, lie: Lie, code: str) -> None:
    context = vault._context
    liar, store = Liar(context.broker, lie), Watched(context.places._store)
    if lie is an_older_tag_record:
        folder = tmp_path / "model"
        folder.mkdir()
        for name in ("a.txt", "b.txt"):
            (folder / name).write_text(name)
        vault.create("m")
        vault.push(folder, "m:prod")
        liar.old = vault.show("m:prod").signed
        vault.push(folder, "m:prod")
    else:
        fill(vault, tmp_path / "model")
    if lie is another_vaults_records:
        wiring.init(tmp_path / "second")
        with connect(home=tmp_path / "second") as second:
            fill(second, tmp_path / "model")
            liar.foreign = second.show("m:prod").signed
    before = context.pins.seen()
    deceived = Session(msgspec.structs.replace(context, broker=liar, places=Direct(store)))
    with pytest.raises(IntegrityError) as caught:
        deceived.load("m:prod", purpose="inference", files=["a.txt"])
    assert caught.value.code == code
    assert caught.value.hint
    assert store.reads == 0
    assert context.pins.seen() == before


def test_keys_in_another_order(vault: Session, tmp_path: Path) -> None:
    """Each key would open the other file's header or nothing; it doesn't even come to that."""
    fill(vault, tmp_path / "model")
    context = vault._context

    def reordered(liar: Liar, caller: Caller, ask: LeaseAsk) -> Lease:
        lease = asking(liar, caller, ask)
        return msgspec.structs.replace(lease, paths=tuple(reversed(lease.paths)))

    store = Watched(context.places._store)
    liar = Liar(context.broker, reordered)
    deceived = Session(msgspec.structs.replace(context, broker=liar, places=Direct(store)))
    with pytest.raises(IntegrityError) as caught:
        deceived.load("m:prod", purpose="inference")
    assert caught.value.code == "not_for_us"
    assert store.reads == 0


def test_the_harness_itself_tells_the_truth(vault: Session, tmp_path: Path) -> None:
    fill(vault, tmp_path / "model")
    context = vault._context
    liar, store = Liar(context.broker, asking), Watched(context.places._store)
    honest = Session(msgspec.structs.replace(context, broker=liar, places=Direct(store)))
    with honest.load("m:prod", purpose="inference", files=["a.txt"]) as model:
        assert model.open("a.txt").read() == b"a.txt 1"
    assert store.reads > 0
