from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from modelvault.artifact.trust import Seen
from modelvault.client.pins import Pins
from modelvault.client.session import Session
from modelvault.errors import Conflict, IntegrityError, InvalidRequest, Unavailable
from modelvault.manifest import Hints, Provenance
from modelvault.reference import Reference
from modelvault.upload import Published
from support.honest import HonestBroker, Keys, Store, context


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text("{}")
    (made / "weights.bin").write_bytes(os.urandom(3 << 20))
    (made / ".git").mkdir()
    return made


def test_what_is_pushed_and_what_is_told(folder: Path) -> None:
    broker, store = HonestBroker(), Store()
    seen: list[tuple[int, int]] = []
    pins = Pins(None, broker.keys.vault)
    session = Session(context(broker, store=store, pins=pins))
    pushed = session.push(
        folder,
        "m:prod",
        labels={"team": "a"},
        provenance=Provenance(base="b"),
        progress=lambda done, total: seen.append((done, total)),
    )
    size = (3 << 20) + 2
    assert (pushed.version, pushed.tag) == (1, "prod")
    assert pushed.found == session.inspect(folder)
    assert pushed.found.paths == ("config.json", "weights.bin")
    assert (pushed.found.size, pushed.found.formats) == (size, ("json", "pickle"))
    assert (pushed.found.pickles, pushed.found.skipped) == (("weights.bin",), (".git",))
    assert seen[-1] == (size, size)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    manifest = broker.find(Reference.parse("m:prod"))
    assert manifest.hints == Hints(formats=("json", "pickle"), pickles=("weights.bin",))
    assert (manifest.labels, manifest.provenance) == ({"team": "a"}, Provenance(base="b"))
    assert manifest.tensors is None
    assert len(store.objects) == 4
    assert pins.seen() == Seen(
        {"default/m:prod": 1}, {"default/m": 1}, {"default/m@1": pushed.manifest}
    )


@pytest.mark.parametrize("reference", ["m@3", "m@sha256:" + "0" * 64])
def test_versions_are_numbered_by_the_vault(folder: Path, reference: str) -> None:
    with pytest.raises(InvalidRequest, match="numbers versions itself"):
        Session(context(HonestBroker())).push(folder, reference)


def test_a_commit_without_an_answer_deletes_nothing(folder: Path) -> None:
    class Silent(HonestBroker):
        def commit(self, *args: object) -> Published:
            super().commit(*args)  # type: ignore[arg-type]
            raise Unavailable("ledger_unavailable", "no answer")

    broker, store = Silent(), Store()
    with pytest.raises(Unavailable):
        Session(context(broker, store=store)).push(folder, "m")
    assert set(store.objects) == {
        name
        for file in broker.find(Reference.parse("m")).files
        for name in (file.object, file.leaves)
    }


@pytest.mark.parametrize("where", ["open", "commit"])
def test_a_push_that_fails_is_given_up(folder: Path, where: str) -> None:
    """The broker is told, and nothing stays in the store."""

    class Failing(HonestBroker):
        def commit(self, *args: object) -> Published:
            raise Unavailable("ledger_unavailable", "not now")

    broker, store = Failing(), Store()

    def fail(_done: int, _total: int) -> None:
        if where == "open":
            raise KeyboardInterrupt

    with pytest.raises((Unavailable, KeyboardInterrupt)):
        Session(context(broker, store=store)).push(folder, "m", progress=fail)
    assert (broker.uploads, store.objects) == ({}, {})


def test_a_push_that_cannot_be_given_up_deletes_nothing(folder: Path) -> None:
    class Away(HonestBroker):
        def commit(self, *args: object) -> Published:
            raise Unavailable("ledger_unavailable", "not now")

        def abandon(self, *args: object) -> None:
            raise Unavailable("ledger_unavailable", "nor now")

    store = Store()
    with pytest.raises(Unavailable, match="not now"):
        Session(context(Away(), store=store)).push(folder, "m")
    assert len(store.objects) == 4


def other_file(broker: HonestBroker, published: Published) -> Published:
    """Publishes with another digest: the store's owner swapped the object."""
    (manifest,) = broker.manifests["default", "m"]
    first = msgspec.structs.replace(manifest.files[0], digest="blake3:" + "0" * 64)
    forged = msgspec.structs.replace(manifest, files=(first, *manifest.files[1:]))
    signed = broker.signed(Reference.parse("m@1"), forged)
    return msgspec.structs.replace(published, signed=signed, manifest=signed.manifest.digest)


def other_keys(broker: HonestBroker, published: Published) -> Published:
    broker.keys = Keys(broker.keys.vault)
    signed = broker.signed(Reference.parse("m@1"), broker.manifests["default", "m"][0])
    return msgspec.structs.replace(published, signed=signed)


def other_version(_broker: HonestBroker, published: Published) -> Published:
    return msgspec.structs.replace(published, version=2)


def other_digest(_broker: HonestBroker, published: Published) -> Published:
    return msgspec.structs.replace(published, manifest="sha256:" + "0" * 64)


@pytest.mark.parametrize(
    ("lie", "code"),
    [
        (other_file, "not_what_was_pushed"),
        (other_keys, "unknown_key"),
        (other_version, "wrong_version"),
        (other_digest, "not_what_was_pushed"),
    ],
)
def test_a_broker_that_publishes_something_else(
    folder: Path, lie: Callable[[HonestBroker, Published], Published], code: str
) -> None:
    class Lying(HonestBroker):
        def commit(self, *args: object) -> Published:
            return lie(self, super().commit(*args))  # type: ignore[arg-type]

    broker = Lying()
    pins = Pins(None, broker.keys.vault)
    with pytest.raises(IntegrityError) as caught:
        Session(context(broker, pins=pins)).push(folder, "m")
    assert caught.value.code == code
    assert pins.seen() == Seen({}, {}, {})


def test_upload_keys_of_another_model_do_not_open(folder: Path) -> None:
    class Lying(HonestBroker):
        def open_version(self, caller: object, ask: object) -> object:
            renamed = msgspec.structs.replace(ask, reference="other")  # type: ignore[type-var]
            return super().open_version(caller, renamed)  # type: ignore[arg-type]

    store = Store()
    with pytest.raises(IntegrityError) as caught:
        Session(context(Lying(), store=store)).push(folder, "m")
    assert caught.value.code == "not_for_us"
    assert not store.objects


def test_a_tag_that_goes_elsewhere_is_noticed(folder: Path) -> None:
    class Lying(HonestBroker):
        def tag(self, caller: object, reference: str, tag: str) -> object:
            return super().tag(caller, "m@1", tag)  # type: ignore[arg-type]

    session = Session(context(Lying()))
    session.push(folder, "m:prod")
    with pytest.raises(IntegrityError, match="instead of m@2") as caught:
        session.push(folder, "m:prod")
    assert caught.value.code == "wrong_version"


def test_a_tag_that_cannot_be_set(folder: Path) -> None:
    """Nobody uploads a version anew that stands already."""

    class Down(HonestBroker):
        def tag(self, caller: object, reference: str, tag: str) -> object:
            raise Unavailable("ledger", "the ledger doesn't answer", "try again", retry_s=3)

    broker = Down()
    with pytest.raises(Unavailable, match=r"m@1 stands.*ledger doesn't answer") as caught:
        Session(context(broker)).push(folder, "m:prod")
    assert caught.value.code == "ledger"
    assert "modelvault tag m@1 prod" in caught.value.hint
    assert caught.value.details == {"retry_s": 3}


def test_an_answer_slower_than_somebody_elses_is_no_rollback(folder: Path) -> None:
    """Another thread sees serial 2 of the tag while this one still waits for its serial 1."""

    class Slow(HonestBroker):
        def tag(self, caller: object, reference: str, tag: str) -> object:
            answer = super().tag(caller, reference, tag)  # type: ignore[arg-type]
            pins.remember(Seen({"default/m:prod": 2}, {}, {}))
            return answer

    broker = Slow()
    pins = Pins(None, broker.keys.vault)
    session = Session(context(broker, pins=pins))
    assert session.push(folder, "m:prod").version == 1
    assert pins.seen().tags == {"default/m:prod": 2}


def test_a_file_that_changes_publishes_nothing(folder: Path) -> None:
    broker, store = HonestBroker(), Store()

    def touch(_done: int, _total: int) -> None:
        os.utime(folder / "weights.bin", ns=(1, 1))

    with pytest.raises(Conflict) as caught:
        Session(context(broker, store=store)).push(folder, "m", progress=touch)
    assert caught.value.code == "file_changed"
    assert (broker.manifests, store.objects) == ({}, {})
