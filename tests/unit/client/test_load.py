from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from modelvault.access import Caller, Obligations
from modelvault.artifact.trust import Seen
from modelvault.client import keeper as keeping
from modelvault.client import load as loading
from modelvault.client.keys import OneTimeKey
from modelvault.client.load import take
from modelvault.client.pins import Pins
from modelvault.client.session import Session
from modelvault.crypto.secret import Secret
from modelvault.errors import (
    AccessDenied,
    Conflict,
    IntegrityError,
    InvalidRequest,
    Unavailable,
)
from modelvault.lease import Lease, LeaseAsk, Renewal
from modelvault.loader import metrics
from modelvault.loader.metrics import PROCESS
from modelvault.reference import Reference
from support.honest import WHEN, HonestBroker, Keys, Store, context

FILES = {"a.dat": b"first file", "b/c.txt": b"second" * 5000}


class Vault:
    """A honest broker with `m` pushed twice and `other` once, and a client of it."""

    def __init__(self, tmp_path: Path, broker: HonestBroker | None = None) -> None:
        self.broker = broker or HonestBroker()
        self.store = Store()
        self.pins = Pins(None, self.broker.keys.vault)
        self.now = 1_000_000
        self.context = context(
            self.broker, store=self.store, pins=self.pins, clock=lambda: self.now
        )
        self.session = Session(self.context)
        for number, name in enumerate(("m:old", "m:prod", "other:prod")):
            folder = tmp_path / str(number)
            for path, data in FILES.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(data + bytes([number]))
            self.session.push(folder, name)


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path)


def test_what_it_cost_is_told(vault: Vault) -> None:
    before = PROCESS.costs()
    with vault.session.load("m:prod", purpose="inference") as model:
        left = model.stats().lease_seconds_left
        vault.now += 10_000
        assert model.stats().lease_seconds_left == left - 10
        model.read_bytes("a.dat")
        costs = model.stats().costs
        assert costs.decrypted_bytes == len(FILES["a.dat"]) + 1
        assert costs.seconds.keys() == {"lease", "verify", "read", "check", "decrypt"}
        assert 'lease_seconds_left{model="m@2"}' in metrics.text()
    assert model.stats().lease_seconds_left == 0
    assert 'model="m@2"' not in metrics.text()
    whole = PROCESS.costs()
    assert whole.decrypted_bytes == before.decrypted_bytes + costs.decrypted_bytes
    assert (
        whole.read_bytes["folder"] - before.read_bytes.get("folder", 0)
        == (costs.read_bytes["folder"])
    )


def test_what_was_pushed_comes_back(vault: Vault) -> None:
    with vault.session.load("m:prod", purpose="inference") as model:
        assert model.files == ("a.dat", "b/c.txt")
        assert model.open("b/c.txt").read() == FILES["b/c.txt"] + b"\1"
        assert bytes(model.read_bytes("a.dat")) == FILES["a.dat"] + b"\1"
    assert len(vault.broker.released) == 1


def test_some_files_only(vault: Vault) -> None:
    with vault.session.load("m@1", purpose="inference", files=["a.dat"]) as model:
        assert model.files == ("a.dat",)
        with pytest.raises(AccessDenied):
            model.open("b/c.txt")


Lie = Callable[[Vault, Caller, LeaseAsk], Lease]


def real(vault: Vault, caller: Caller, ask: LeaseAsk) -> Lease:
    return HonestBroker.lease(vault.broker, caller, ask)


def another_model(vault: Vault, caller: Caller, ask: LeaseAsk) -> Lease:
    return real(vault, caller, msgspec.structs.replace(ask, reference="other:prod"))


def another_models_keys(vault: Vault, caller: Caller, ask: LeaseAsk) -> Lease:
    """The right documents, but sealed keys of another model."""
    return msgspec.structs.replace(
        real(vault, caller, ask), sealed=another_model(vault, caller, ask).sealed
    )


def another_version(vault: Vault, caller: Caller, ask: LeaseAsk) -> Lease:
    return real(vault, caller, msgspec.structs.replace(ask, reference="m:old"))


def another_asks_lease(vault: Vault, caller: Caller, ask: LeaseAsk) -> Lease:
    return real(vault, caller, msgspec.structs.replace(ask, nonce=bytes(16)))


def another_purpose(vault: Vault, caller: Caller, ask: LeaseAsk) -> Lease:
    return real(vault, caller, msgspec.structs.replace(ask, purpose="debug"))


def another_lease_id(vault: Vault, caller: Caller, ask: LeaseAsk) -> Lease:
    return msgspec.structs.replace(real(vault, caller, ask), id="0" * 32)


def swapped_manifest(vault: Vault, caller: Caller, ask: LeaseAsk) -> Lease:
    lease, old = real(vault, caller, ask), another_version(vault, caller, ask)
    signed = msgspec.structs.replace(lease.signed, manifest=old.signed.manifest)
    return msgspec.structs.replace(lease, signed=signed)


def wrong_version_number(vault: Vault, caller: Caller, ask: LeaseAsk) -> Lease:
    return msgspec.structs.replace(real(vault, caller, ask), version=1)


def another_vaults_records(vault: Vault, caller: Caller, ask: LeaseAsk) -> Lease:
    vault.broker.keys = Keys("ee" * 16)
    return real(vault, caller, ask)


def own_vault_other_keys(vault: Vault, caller: Caller, ask: LeaseAsk) -> Lease:
    vault.broker.keys = Keys(vault.broker.keys.vault)
    return real(vault, caller, ask)


def key_of_another_purpose(vault: Vault, caller: Caller, ask: LeaseAsk) -> Lease:
    private = vault.broker.keys.private
    private["manifest"], private["record"] = private["record"], private["manifest"]
    return real(vault, caller, ask)


def older_tag_record(vault: Vault, caller: Caller, ask: LeaseAsk) -> Lease:
    vault.pins.remember(Seen({"default/m:prod": 1}, {}, {}))
    old = vault.broker.tags["m:prod"]
    vault.broker.tags["m:prod"] = msgspec.structs.replace(old, serial=1)
    return real(vault, caller, ask)


def older_model_record(vault: Vault, caller: Caller, ask: LeaseAsk) -> Lease:
    return real(vault, caller, ask)


def more_paths_than_asked(vault: Vault, caller: Caller, ask: LeaseAsk) -> Lease:
    return real(vault, caller, msgspec.structs.replace(ask, files=None))


def keys_of_another_file(vault: Vault, caller: Caller, ask: LeaseAsk) -> Lease:
    """The names are those asked for, the key in the seal is another file's."""
    return msgspec.structs.replace(
        real(vault, caller, msgspec.structs.replace(ask, files=("b/c.txt",))), paths=("a.dat",)
    )


def too_few_keys(vault: Vault, caller: Caller, ask: LeaseAsk) -> Lease:
    broker = vault.broker
    seal = broker.seal
    broker.seal = lambda dek, files, *rest: seal(dek, [], *rest)  # type: ignore[method-assign]
    return real(vault, caller, ask)


def no_paths(vault: Vault, caller: Caller, ask: LeaseAsk) -> Lease:
    return real(vault, caller, msgspec.structs.replace(ask, files=()))


def a_path_twice(vault: Vault, caller: Caller, ask: LeaseAsk) -> Lease:
    return msgspec.structs.replace(real(vault, caller, ask), paths=("a.dat", "a.dat"))


def a_path_that_is_not_there(vault: Vault, caller: Caller, ask: LeaseAsk) -> Lease:
    return msgspec.structs.replace(real(vault, caller, ask), paths=("z.dat",))


def beyond_its_own_obligation(vault: Vault, caller: Caller, ask: LeaseAsk) -> Lease:
    lease = real(vault, caller, ask)
    return msgspec.structs.replace(lease, obligations=Obligations(files=("*.txt",)))


LIES: list[tuple[Lie, str]] = [
    (another_model, "wrong_model"),
    (another_models_keys, "not_for_us"),
    (another_version, "wrong_tag"),
    (another_asks_lease, "not_for_us"),
    (another_purpose, "not_for_us"),
    (another_lease_id, "not_for_us"),
    (swapped_manifest, "wrong_version"),
    (wrong_version_number, "not_what_was_asked"),
    (another_vaults_records, "unknown_key"),
    (own_vault_other_keys, "unknown_key"),
    (key_of_another_purpose, "unknown_key"),
    (more_paths_than_asked, "not_what_was_asked"),
    (keys_of_another_file, "not_for_us"),
    (too_few_keys, "bad_keys"),
    (no_paths, "not_what_was_asked"),
    (a_path_twice, "not_what_was_asked"),
    (a_path_that_is_not_there, "not_what_was_asked"),
    (beyond_its_own_obligation, "not_what_was_asked"),
]


@pytest.mark.parametrize(("lie", "code"), LIES, ids=[lie.__name__ for lie, _ in LIES])
def test_a_lying_broker(vault: Vault, monkeypatch: pytest.MonkeyPatch, lie: Lie, code: str) -> None:
    before = vault.pins.seen()
    monkeypatch.setattr(
        HonestBroker, "lease", lambda _self, caller, ask: _lie(monkeypatch, lie, vault, caller, ask)
    )
    vault.store.reads.clear()
    with pytest.raises(IntegrityError) as caught:
        vault.session.load("m:prod", purpose="inference", files=["a.dat"])
    assert caught.value.code == code
    assert caught.value.hint
    assert vault.store.reads == []  # no key was used
    assert vault.pins.seen() == before


def _lie(
    monkeypatch: pytest.MonkeyPatch, lie: Lie, vault: Vault, caller: Caller, ask: LeaseAsk
) -> Lease:
    monkeypatch.undo()
    return lie(vault, caller, ask)


@pytest.mark.parametrize("what", ["tag", "model"])
def test_an_older_record_is_refused(vault: Vault, what: str) -> None:
    with vault.session.load("m:prod", purpose="inference"):
        pass
    seen = Seen({"default/m:prod": 9}, {}, {}) if what == "tag" else Seen({}, {"default/m": 9}, {})
    vault.pins.remember(seen)
    with pytest.raises(IntegrityError) as caught:
        vault.session.load("m:prod", purpose="inference")
    assert caught.value.code == "rollback"


def test_keys_that_open_but_are_another_files_read_nothing(vault: Vault) -> None:
    """Sealed under the right info with wrong bytes: the file itself says no."""
    seal = vault.broker.seal
    vault.broker.seal = lambda dek, files, *rest: seal(  # type: ignore[method-assign]
        dek, [(artifact, "b/c.txt") for artifact, _ in files], *rest
    )
    with (
        vault.session.load("m:prod", purpose="inference", files=["a.dat"]) as model,
        pytest.raises(IntegrityError) as caught,
    ):
        model.read_bytes("a.dat")
    assert caught.value.code == "bad_header_tag"


def test_a_denied_renewal_tells_and_wipes(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    done = threading.Event()

    def revoked(reason: str) -> None:
        told.append(reason)
        done.set()

    def deny(*_args: object) -> Renewal:
        raise AccessDenied("revoked", "no")

    monkeypatch.setattr(vault.broker, "renew", deny)
    vault.broker.ttl_s = 1
    model = vault.session.load("m:prod", purpose="inference", on_revoked=revoked)
    view = model.read_bytes("a.dat")
    vault.now += 700
    assert done.wait(10)
    assert told == ["revoked"]
    with pytest.raises(AccessDenied):
        model.read_bytes("b/c.txt")
    with pytest.raises(AccessDenied):
        model.read_bytes("a.dat")
    assert bytes(view[:5]) == b"first"  # never zeroed under a reader
    del view
    model.close()
    assert vault.broker.released == []


def test_a_lease_without_anybody_to_tell(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_args: object) -> Renewal:
        raise AccessDenied("revoked", "no")

    monkeypatch.setattr(vault.broker, "renew", deny)
    vault.broker.ttl_s = 1
    with vault.session.load("m:prod", purpose="inference") as model:
        vault.now += 700
        for thread in threading.enumerate():
            if thread.name == "modelvault-lease":
                thread.join(10)
        with pytest.raises(AccessDenied):
            model.open("a.dat")


def test_a_forgotten_model_gives_its_lease_back(vault: Vault) -> None:
    vault.session.load("m:prod", purpose="inference")
    gc.collect()
    assert len(vault.broker.released) == 1
    assert not [t for t in threading.enumerate() if t.name == "modelvault-lease"]


def test_closing_the_session_closes_its_models(vault: Vault) -> None:
    with vault.session as session:
        model = session.load("m:prod", purpose="inference")
    assert model.closed
    session.close()
    assert len(vault.broker.released) == 1


def test_a_broker_that_never_answers_holds_no_close_up(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told last, when memory and keys are gone."""
    monkeypatch.setattr(keeping, "_STOP_S", 0.1)
    models = [vault.session.load(name, purpose="inference") for name in ("m:prod", "other:prod")]
    for model in models:
        model.read_bytes("a.dat")
    of_lease = {
        grant.lease.id: (grant.lease.model, list(grant._keys.values()))
        for grant in gc.get_objects()
        if type(grant) is loading.Grant and grant._context is vault.context
    }
    begun, answer = threading.Semaphore(0), threading.Event()
    left: list[bool] = []

    def release(caller: Caller, lease: str) -> None:
        name, keys = of_lease[lease]
        (model,) = (each for each in models if each.manifest.model == name)
        memory = [resident.alive for resident in model._residents.values()]
        left.append(any(memory) or not all(key.wiped for key in keys))
        begun.release()
        assert answer.wait(20)
        HonestBroker.release(vault.broker, caller, lease)

    monkeypatch.setattr(vault.broker, "release", release)
    vault.session.close()
    assert all(model.closed for model in models)
    assert all(begun.acquire(timeout=20) for _ in models)
    assert left == [False, False]
    assert vault.broker.released == []
    answer.set()


def test_a_session_with_views_alive_stays_open(vault: Vault) -> None:
    model = vault.session.load("m:prod", purpose="inference")
    view = model.read_bytes("a.dat")
    with pytest.raises(Conflict) as caught:
        vault.session.close()
    assert caught.value.code == "views_alive"
    assert bytes(view[:5]) == b"first"
    del view
    vault.session.close()
    assert model.closed


def test_an_error_on_its_way_is_not_masked_by_live_views(vault: Vault) -> None:
    views: list[memoryview] = []

    def work() -> None:
        with vault.session as session:
            model = session.load("m:prod", purpose="inference")
            views.append(model.read_bytes("a.dat"))
            raise ValueError("the job's own error")

    with pytest.raises(ValueError, match="the job's own error"):
        work()
    views.clear()


def test_an_export_writes_private_files(vault: Vault, tmp_path: Path) -> None:
    target = tmp_path / "out"
    manifest = vault.session.export("m:prod", target)
    assert manifest.version == 2
    for path, data in FILES.items():
        assert (target / path).read_bytes() == data + b"\1"
        assert (target / path).stat().st_mode & 0o777 == 0o600
    assert target.stat().st_mode & 0o777 == 0o700
    assert len(vault.broker.released) == 1


@pytest.mark.parametrize("name", ["memory_only", "isolated_memory"])
def test_an_export_of_what_must_stay_in_memory(vault: Vault, tmp_path: Path, name: str) -> None:
    vault.broker.obligations = Obligations(**{name: True})
    with pytest.raises(AccessDenied) as caught:
        vault.session.export("m:prod", tmp_path / "out")
    assert caught.value.code == name
    assert caught.value.details["owner"] == "owner"
    assert len(vault.broker.released) == 1
    assert not list(tmp_path.glob("*out*"))


def test_an_export_stops_when_a_renewal_says_memory_only(
    vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.broker.ttl_s = 1
    renewed = threading.Event()

    def renew(*_args: object) -> Renewal:
        renewed.set()
        return Renewal(ttl_s=1, expires_at=WHEN, obligations=Obligations(memory_only=True))

    read = vault.store.read_into

    def slow(name: str, offset: int, buffer: memoryview) -> None:
        vault.now += 700
        assert renewed.wait(10)
        for thread in threading.enumerate():
            if thread.name == "modelvault-lease":
                thread.join(10)
        read(name, offset, buffer)

    monkeypatch.setattr(vault.broker, "renew", renew)
    monkeypatch.setattr(vault.store, "read_into", slow)
    with pytest.raises(AccessDenied) as caught:
        vault.session.export("m:prod", tmp_path / "out")
    assert caught.value.code == "memory_only"
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("when", ["2000-01-01T00:00:00.000Z", "2100-01-01T00:00:00.000Z"])
def test_what_a_brokers_wall_clock_says_does_not_matter(
    vault: Vault, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """`expires_at` may lie hours or years away: the ttl counts on our own boot clock."""
    honest = HonestBroker.lease

    def lease(broker: HonestBroker, caller: Caller, ask: LeaseAsk) -> Lease:
        return msgspec.structs.replace(honest(broker, caller, ask), expires_at=when)

    monkeypatch.setattr(HonestBroker, "lease", lease)
    with vault.session.load("m:prod", purpose="inference") as model:
        vault.now += 599_000
        assert model.open("a.dat").read(5) == b"first"
        vault.now += 1_000
        with pytest.raises(AccessDenied) as caught:
            model.open("b/c.txt").read()
    assert caught.value.code == "lease_expired"


def test_only_granted_files_have_readers(vault: Vault) -> None:
    granted, keeper = take(
        vault.context,
        Reference.parse("m:prod"),
        purpose="inference",
        action="load",
        files=["a.dat"],
        ticket=None,
        on_end=lambda _reason: None,
    )
    other = granted.manifest.file("b/c.txt")
    assert other is not None
    with pytest.raises(InvalidRequest) as caught:
        granted.reader(other)
    assert caught.value.code == "not_granted"
    keeper.stop()
    granted.wipe()


def test_a_memory_that_cannot_be_kept_wipes_the_keys(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[dict[str, Secret]] = []
    real = OneTimeKey.open

    def kept(self: OneTimeKey, *args: object) -> dict[str, Secret]:
        opened.append(real(self, *args))  # type: ignore[arg-type]
        return opened[-1]

    def broken(*_args: object, **_more: object) -> None:
        raise IntegrityError("bad_pins", "broken")

    monkeypatch.setattr(OneTimeKey, "open", kept)
    with monkeypatch.context() as patched:
        patched.setattr(vault.pins, "remember", broken)
        with pytest.raises(IntegrityError):
            vault.session.load("m:prod", purpose="inference")
    monkeypatch.setattr(loading, "Model", broken)
    with pytest.raises(IntegrityError):
        vault.session.load("m:prod", purpose="inference")
    assert len(opened) == 2
    assert all(key.wiped for keys in opened for key in keys.values())


@pytest.mark.parametrize("action", ["export", "pull"])
def test_nothing_is_overwritten(vault: Vault, tmp_path: Path, action: str) -> None:
    target = tmp_path / "out"
    target.mkdir()
    getattr(vault.session, action)("m:prod", target)  # an empty folder is fine
    before = sorted(target.rglob("*"))
    with pytest.raises(Conflict) as caught:
        getattr(vault.session, action)("m:prod", target)
    assert caught.value.code == "folder_exists"
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(Conflict):
        getattr(vault.session, action)("m:prod", tmp_path / "link")
    assert sorted(target.rglob("*")) == before


@pytest.mark.parametrize("action", ["export", "pull"])
def test_a_place_that_cannot_be_looked_at(vault: Vault, tmp_path: Path, action: str) -> None:
    with pytest.raises(Unavailable, match="File name too long") as caught:
        getattr(vault.session, action)("m:prod", tmp_path / ("x" * 300))
    assert caught.value.code == "cant_write"


@pytest.mark.parametrize("action", ["export", "pull"])
def test_a_damaged_object_leaves_nothing_on_the_disk(
    vault: Vault, tmp_path: Path, action: str
) -> None:
    file = vault.broker.manifests["default", "m"][1].files[1]
    data = bytearray(vault.store.objects[file.object])
    data[-1] ^= 1
    vault.store.objects[file.object] = bytes(data)
    with pytest.raises(IntegrityError):
        getattr(vault.session, action)("m:prod", tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("action", ["export", "pull"])
def test_a_disk_that_refuses(vault: Vault, tmp_path: Path, action: str) -> None:
    with pytest.raises(Unavailable) as caught:
        getattr(vault.session, action)("m:prod", tmp_path / "none" / "out")
    assert caught.value.code == "cant_write"


def test_an_export_stops_when_its_lease_ends(
    vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = vault.store.read_into

    def slow(name: str, offset: int, buffer: memoryview) -> None:
        vault.now += 1_000_000
        read(name, offset, buffer)

    monkeypatch.setattr(vault.store, "read_into", slow)
    with pytest.raises(AccessDenied):
        vault.session.export("m:prod", tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_a_pulled_folder_is_all_that_a_second_reader_needs(vault: Vault, tmp_path: Path) -> None:
    manifest = vault.session.pull("m:prod", tmp_path / "out")
    names = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.json")}
    assert names == {"trust.json", "model.json", "manifest.json", "tag.json"}
    for file in manifest.files:
        for name in (file.object, file.leaves):
            assert (tmp_path / "out" / name).read_bytes() == vault.store.objects[name]
    vault.session.pull("m@1", tmp_path / "exact")
    assert not (tmp_path / "exact" / "tag.json").exists()


def test_a_folder_that_somebody_makes_meanwhile_stays_theirs(
    vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    read = vault.store.read_into

    def overtaken(name: str, offset: int, buffer: memoryview) -> None:
        target.mkdir(exist_ok=True)
        (target / "theirs").touch()
        read(name, offset, buffer)

    monkeypatch.setattr(vault.store, "read_into", overtaken)
    with pytest.raises(Conflict) as caught:
        vault.session.pull("m:prod", target)
    assert caught.value.code == "folder_exists"
    assert [path.name for path in tmp_path.glob("*out*")] == ["out"]
    assert [path.name for path in target.iterdir()] == ["theirs"]


def test_show_verifies_what_it_shows(vault: Vault) -> None:
    assert vault.session.show("m:prod").signed is not None
    vault.broker.keys = Keys(vault.broker.keys.vault)
    with pytest.raises(IntegrityError):
        vault.session.show("m:prod")


def test_what_only_a_home_can_do(vault: Vault) -> None:
    for use in (vault.session.publish_policy, vault.session.mint_token):
        with pytest.raises(InvalidRequest) as caught:
            use()
        assert caught.value.code == "not_embedded"
    assert vault.session.trust == vault.context.trust
    assert vault.session.trust.vault in repr(vault.session)
    assert vault.session.whoami().id == "token-for-None"
