"""An attacker who may write to the ledger's file: rows altered, exchanged, rolled back.

What they can set is what the threat model says: limits, revocations, the log. What they can't make
is a document that counts, so no key is unwrapped for one of theirs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelvault import connect, wiring
from modelvault.adapters.keys_local import LocalKeyring
from modelvault.client.session import Session
from modelvault.errors import (
    AccessDenied,
    IntegrityError,
    ModelVaultError,
    NotFound,
    Unavailable,
)
from modelvault_cli.main import EXIT_CODES
from support.attacked import as_somebody, change, folder, rows
from support.command import call
from support.homes import isolated

FILES = {"a.dat": b"a" * 9000}


class Place:
    """A vault and another one with models of the same names; copied for each test."""

    def __init__(self, home: Path, other: Path) -> None:
        self.home = home
        self.other = other

    def of(self, column: str, table: str, where: str, *, home: Path | None = None) -> object:
        """One value of the ledger."""
        ((value,),) = rows(home or self.home, f"select {column} from {table} where {where}")  # noqa: S608
        return value

    def set(self, table: str, column: str, value: object, where: str) -> None:
        change(self.home, f"update {table} set {column} = ? where {where}", value)  # noqa: S608


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("ledgers")
    with pytest.MonkeyPatch.context() as patched:
        home = isolated(place, patched)
        for which in (home, place / "other"):
            wiring.init(which, segment_length=4096)
            with connect(home=which) as vault:
                for name in ("m", "n"):
                    vault.create(name, classification="internal")
                    vault.push(folder(place / "in", FILES), f"{name}:prod")
                    vault.push(place / "in", f"{name}:next", upload_all=True)
        with connect() as vault, vault.load("m:prod", purpose="inference"):
            pass
        yield place


@pytest.fixture
def place(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in ("home", "other"):
        shutil.copytree(originals / name, tmp_path / name)
    isolated(tmp_path, monkeypatch)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(originals / "config"))
    return Place(tmp_path / "home", tmp_path / "other")


@pytest.fixture(autouse=True)
def unwrapped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The KEKs under which something was unwrapped."""
    real = LocalKeyring.unwrap
    found: list[str] = []

    def unwrap(self: LocalKeyring, key: str, *args: object) -> object:
        found.append(key)
        return real(self, key, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalKeyring, "unwrap", unwrap)
    return found


def flipped(data: object, at: int | bytes = 40) -> bytes:
    assert isinstance(data, bytes)
    changed = bytearray(data)
    where = at if isinstance(at, int) else data.index(at) + len(at)
    letter = changed[where : where + 1]
    changed[where : where + 1] = b"A" if letter != b"A" else b"B"
    return bytes(changed)


def flip(table: str, column: str, where: str, at: int | bytes = 40) -> Callable[[Place], None]:
    return lambda p: p.set(table, column, flipped(p.of(column, table, where), at), where)


def put(table: str, column: str, value: object, where: str) -> Callable[[Place], None]:
    return lambda p: p.set(table, column, value, where)


def exchange(
    table: str, columns: tuple[str, ...], where: str, source: str, *, other: bool = False
) -> Callable[[Place], None]:
    """Columns of one row from another one, or from the other vault's."""

    def tamper(place: Place) -> None:
        taken = [
            place.of(name, table, source, home=place.other if other else None) for name in columns
        ]
        if table == "versions" and "'m'" in source and not other:  # unique within a model
            change(place.home, f"update versions set digest = 'moved' where {source}")  # noqa: S608
        for name, value in zip(columns, taken, strict=True):
            place.set(table, name, value, where)

    return tamper


M, N, M1, M2, N1 = (
    "model = 'm'", "model = 'n'", "model = 'm' and version = 1", "model = 'm' and version = 2",
    "model = 'n' and version = 1",
)  # fmt: skip
PROD, NEXT = "model = 'm' and tag = 'prod'", "model = 'm' and tag = 'next'"
KEY1 = "artifact = (select artifact from versions where model = 'm' and version = 1)"
KEY2 = "artifact = (select artifact from versions where model = 'm' and version = 2)"
KEYN = "artifact = (select artifact from versions where model = 'n' and version = 1)"
DOCUMENT = ("manifest", "digest")
DEEP = b'{"payload":' + b"[" * 100 + b"]" * 100 + b"}"

TAMPERED: dict[str, tuple[Callable[[Place], object], str]] = {
    "model record: payload": (flip("models", "record", M, b'"payload":"'), "bad_signature"),
    "model record: signature": (flip("models", "record", M, b'"sig":"'), "bad_signature"),
    "model record: key id": (flip("models", "record", M, b'"sha256:'), "ledger_corrupt"),
    "model record: type": (flip("models", "record", M, b"vnd.modelvault."), "wrong_type"),
    "model record: of another model": (exchange("models", ("record",), M, N), "ledger_altered"),
    "model record: of another vault": (
        exchange("models", ("record",), M, M, other=True),
        "unknown_key",
    ),
    "model record: a tag's": (
        lambda p: p.set("models", "record", p.of("record", "tags", PROD), M),
        "wrong_type",
    ),
    "model record: a manifest": (
        lambda p: p.set("models", "record", p.of("manifest", "versions", M1), M),
        "wrong_type",
    ),
    "model record: deep": (put("models", "record", DEEP, M), "ledger_corrupt"),
    "model record: a key twice": (
        lambda p: p.set(
            "models", "record",
            b'{"payload":"e30=",' + bytes(p.of("record", "models", M))[1:], M,  # type: ignore[call-overload]
        ),
        "ledger_corrupt",
    ),
    "model record: empty": (put("models", "record", b"", M), "ledger_corrupt"),
    "model record: over the limit": (put("models", "record", b" " * (200 << 10), M),
                                     "ledger_corrupt"),
    "model row: serial": (put("models", "serial", 7, M), "ledger_altered"),
    "tag record: payload": (flip("tags", "record", PROD, b'"payload":"'), "bad_signature"),
    "tag record: of another tag": (exchange("tags", ("record",), PROD, NEXT), "ledger_altered"),
    "tag record: of another model": (
        exchange("tags", ("record",), PROD, "model = 'n' and tag = 'prod'"),
        "ledger_altered",
    ),
    "tag record: of another vault": (
        exchange("tags", ("record",), PROD, PROD, other=True),
        "unknown_key",
    ),
    "tag row: points elsewhere": (put("tags", "version", 2, PROD), "ledger_altered"),
    "tag row: serial": (put("tags", "serial", 9, PROD), "ledger_altered"),
    "manifest: payload": (flip("versions", "manifest", M1, b'"payload":"'), "ledger_corrupt"),
    "manifest: signature": (flip("versions", "manifest", M1, b'"sig":"'), "bad_signature"),
    "manifest: of another version": (exchange("versions", DOCUMENT, M1, M2), "wrong_version"),
    "manifest: of another model": (exchange("versions", DOCUMENT, M1, N1), "wrong_model"),
    "manifest: of another vault": (
        exchange("versions", DOCUMENT, M1, M1, other=True),
        "unknown_key",
    ),
    "manifest: digest alone": (put("versions", "digest", "sha256:" + "0" * 64, M1),
                               "ledger_corrupt"),
    "manifest: over the limit": (
        lambda p: change(
            p.home, f"update versions set manifest = zeroblob(?) where {M1}", 90 << 20  # noqa: S608
        ),
        "ledger_corrupt",
    ),
    "manifest: deep": (put("versions", "manifest", DEEP, M1), "ledger_corrupt"),
    "manifest: a float": (
        put("versions", "manifest", b'{"payload":1.0}', M1),
        "ledger_corrupt",
    ),
    "version row: artifact": (put("versions", "artifact", "0" * 32, M1), "ledger_altered"),
    "version row: number": (
        lambda p: change(p.home, f"update versions set version = 3 where {M1}"),  # noqa: S608
        "no_version",
    ),
}  # fmt: skip
KEYS: dict[str, tuple[Callable[[Place], object], str]] = {
    "key: flipped": (flip("keys", "wrapped", KEY1, 30), "bad_wrapped_key"),
    "key: IV": (flip("keys", "wrapped", KEY1, 0), "bad_wrapped_key"),
    "key: cut": (
        lambda p: change(p.home, f"update keys set wrapped = x'00' where {KEY1}"),  # noqa: S608
        "bad_wrapped_key",
    ),
    "key: of another version": (exchange("keys", ("wrapped",), KEY1, KEY2), "bad_wrapped_key"),
    "key: of another model": (exchange("keys", ("wrapped",), KEY1, KEYN), "bad_wrapped_key"),
    "key: of another vault": (
        exchange("keys", ("wrapped",), KEY1, KEY1, other=True),
        "bad_wrapped_key",
    ),
    "key: a KEK version that isn't": (put("keys", "kek_version", 99, KEY1), "bad_wrapped_key"),
    "key: gone": (lambda p: change(p.home, f"delete from keys where {KEY1}"), "key_missing"),  # noqa: S608
}


def refusal(reference: str = "m:prod") -> ModelVaultError:
    with pytest.raises(ModelVaultError) as caught, connect() as vault:
        vault.load(reference, purpose="inference").read_bytes("a.dat")
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("case", TAMPERED)
def test_documents(place: Place, unwrapped: list[str], case: str) -> None:
    tamper, code = TAMPERED[case]
    tamper(place)
    refused = refusal()
    assert refused.code == code
    assert isinstance(refused, NotFound if code == "no_version" else IntegrityError)
    assert unwrapped == []
    with connect() as vault, vault.load("n:prod", purpose="inference") as model:
        assert model.open("a.dat").read() == FILES["a.dat"]  # the rest of the vault works


@pytest.mark.parametrize("case", KEYS)
def test_wrapped_keys(place: Place, case: str) -> None:
    tamper, code = KEYS[case]
    tamper(place)
    refused = refusal()
    assert refused.code == code
    assert isinstance(refused, Unavailable if code == "key_missing" else IntegrityError)
    with connect() as vault:
        assert vault.leases() == ()  # the lease that was admitted for it is over again


def test_columns_are_nobodys_word(place: Place) -> None:
    """Owner and classification count as they are signed, whatever stands beside."""
    place.set("models", "classification", "public", M)
    place.set("models", "owner", "local:mallory", M)
    with connect() as vault:
        summary = vault.show("m").summary
        assert summary.classification == "internal"
        assert summary.owner != "local:mallory"
        with connect(token=vault.mint_token(sub="mallory", groups=[])) as mallory:
            assert refused_by(mallory) == "no_model"


def refused_by(session: Session) -> str:
    with pytest.raises(ModelVaultError) as caught:
        session.load("m", purpose="inference")
    return caught.value.code


# Put back


def test_an_old_tag_record(place: Place) -> None:
    before = rows(place.home, f"select record, version, serial from tags where {PROD}")  # noqa: S608
    with connect() as vault:
        vault.tag("m@2", "prod")
    for column, value in zip(("record", "version", "serial"), before[0], strict=True):
        place.set("tags", column, value, PROD)
    refused = refusal()
    assert refused.code == "rollback"
    assert "default/m:prod" in refused.message
    # A client without memory takes it: what the threat model says of freshness.
    (place.home / "pins.json").unlink()
    with connect() as vault, vault.load("m:prod", purpose="inference") as model:
        assert model.manifest.version == 1


def test_an_old_model_record(place: Place) -> None:
    before = rows(place.home, f"select record, serial from models where {M}")[0]  # noqa: S608
    with connect() as vault:
        vault.classify("m", classification="restricted")
        vault.load("m@1", purpose="inference").close()
    for column, value in zip(("record", "serial"), before, strict=True):
        place.set("models", column, value, M)
    refused = refusal("m@1")
    assert refused.code == "rollback"
    assert "default/m" in refused.message


def test_an_old_ledger_in_which_the_version_is_made_anew(place: Place, tmp_path: Path) -> None:
    """A number that was given twice: the client remembers what the first one was."""
    old = tmp_path / "old.db"
    shutil.copy(place.home / "ledger.db", old)
    with connect() as vault:
        vault.push(folder(tmp_path / "good", {"a.dat": b"good"}), "m")
    for left in place.home.glob("ledger.db*"):
        left.unlink()
    shutil.copy(old, place.home / "ledger.db")
    with connect() as vault:
        with pytest.raises(IntegrityError) as caught:
            vault.push(folder(tmp_path / "evil", {"a.dat": b"evil"}), "m")
        assert caught.value.code == "rollback"
        assert "default/m@3" in caught.value.message
    assert refusal("m@3").code == "rollback"
    assert refusal("m").code == "rollback"


def test_another_vaults_ledger(place: Place, unwrapped: list[str]) -> None:
    for left in place.home.glob("ledger.db*"):
        left.unlink()
    shutil.copy(place.other / "ledger.db", place.home / "ledger.db")
    refused = refusal()
    # Its policies are the shipped ones, so it gets as far as its documents.
    assert refused.code == "unknown_key"
    assert unwrapped == []


# The file itself


def gone(home: Path) -> None:
    for left in home.glob("ledger.db*"):
        left.unlink()


def written(data: bytes) -> Callable[[Path], None]:
    def tamper(home: Path) -> None:
        gone(home)
        (home / "ledger.db").write_bytes(data)

    return tamper


def cut(home: Path) -> None:
    data = (home / "ledger.db").read_bytes()
    written(data[: len(data) // 2 // 4096 * 4096])(home)


def scribbled(home: Path) -> None:
    data = bytearray((home / "ledger.db").read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    written(bytes(data))(home)


FILE: dict[str, Callable[[Path], object]] = {
    "gone": gone,
    "empty": written(b""),
    "text": written(b"not a database, though it is long enough to hold a header" * 90),
    "cut": cut,
    "scribbled over": scribbled,
    "a table less": lambda home: change_schema(home, "drop table keys"),
    "a column less": lambda home: change_schema(home, "alter table leases rename purpose to why"),
    "no head": lambda home: change(home, "delete from head"),
    "a later schema": lambda home: change_schema(home, "pragma user_version = 99"),
    "another application": lambda home: change_schema(home, "pragma application_id = 1"),
}


def change_schema(home: Path, statement: str) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(home / "ledger.db")) as database:
        database.execute(statement)
        database.commit()


@pytest.mark.parametrize("case", FILE)
def test_the_file(
    place: Place, unwrapped: list[str], capsys: pytest.CaptureFixture[str], case: str
) -> None:
    FILE[case](place.home)
    refused = refusal()
    assert isinstance(refused, IntegrityError | Unavailable)
    assert unwrapped == []
    told = call(capsys, "load", "m:prod", "--purpose", "inference")
    assert told.code == EXIT_CODES[refused.family]
    assert "Traceback" not in told.err


def test_the_log(place: Place) -> None:
    """An entry that was changed, moved or renumbered isn't shown as if it were true."""
    entry = bytes(place.of("document", "entries", "seq = 3"))  # type: ignore[call-overload]
    for statement, value in (
        ("update entries set document = ? where seq = 3", entry.replace(b"local:", b"lokal:")),
        ("update entries set leaf_hash = ? where seq = 3", b"\0" * 32),
        ("update entries set seq = ? where seq = 3", 99),
        ("update entries set document = ? where seq = 3", b'{"schema":1}'),
        ("update entries set document = ? where seq = 3", entry[:-1] + b',"x":1}'),
        ("update entries set document = ? where seq = 3", b" " + entry),
    ):
        before = (place.home / "ledger.db").read_bytes()
        change(place.home, statement, value)
        with connect() as vault, pytest.raises(IntegrityError) as caught:
            vault.entries(limit=1000)
        assert caught.value.code == "ledger_corrupt"
        assert caught.value.hint
        gone(place.home)
        (place.home / "ledger.db").write_bytes(before)


def test_the_exit_codes(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    told = call(capsys, "load", "m:prod", "--purpose", "inference")
    assert told.code == 0, told.err
    TAMPERED["tag record: payload"][0](place)
    told = call(capsys, "load", "m:prod", "--purpose", "inference", "--json")
    assert (told.code, told.error.code) == (5, "bad_signature")
    assert told.error.hint
    KEYS["key: gone"][0](place)
    told = call(capsys, "load", "m@1", "--purpose", "inference", "--json")
    assert (told.code, told.error.code) == (6, "key_missing")


# By what a push finds a file unchanged


@pytest.mark.parametrize("source", [KEY1, KEY2, KEYN])
def test_fingerprints(place: Place, tmp_path: Path, source: str) -> None:
    """Whoever exchanges them makes files be uploaded again, and none be taken for another: here the
    newest version's for one that had the contents which are pushed next."""
    older = folder(tmp_path / "older", FILES)
    with connect() as vault:
        vault.push(folder(tmp_path / "newer", {"a.dat": b"b" * 9000}), "m")
    newest = "artifact = (select artifact from versions where model = 'm' and version = 3)"
    taken = place.of("fingerprint", "fingerprints", source)
    place.set("fingerprints", "fingerprint", taken, newest)
    with connect() as vault:
        assert vault.push(older, "m").unchanged == ()
        with vault.load("m@4", purpose="inference") as model:
            assert model.open("a.dat").read() == FILES["a.dat"]
        assert vault.push(older, "m").unchanged == ("a.dat",)


def test_somebody_elses_version_under_ones_own_name(place: Place, tmp_path: Path) -> None:
    """Who pushed a version, its signed manifest says."""
    with connect() as vault:
        mine = vault.whoami().id
        with as_somebody(vault, "mallory", "admins") as mallory:
            mallory.push(folder(tmp_path / "in", FILES), "m")
    place.set("versions", "created_by", mine, "model = 'm' and version = 3")
    with connect() as vault:
        assert vault.push(tmp_path / "in", "m").unchanged == ()


# The policy that counts


def test_a_revision_that_was_never_published(place: Place, unwrapped: list[str]) -> None:
    for revision in ("sha256:" + "0" * 64, None, "../../../etc/passwd", "sha256:" + "/" * 64):
        place.set("head", "policy_revision", revision, "id = 1")
        refused = refusal()
        assert isinstance(refused, Unavailable | NotFound)
    assert unwrapped == []


def test_a_bundle_of_their_own_under_the_published_name(place: Place, unwrapped: list[str]) -> None:
    revision = str(place.of("policy_revision", "head", "id = 1"))
    bundle = place.home / "policy" / "published" / revision.removeprefix("sha256:") / "bundle.json"
    document = json.loads(bundle.read_text())
    document["data"]["grants"][0]["groups"] = ["local:everybody"]
    bundle.write_text(json.dumps(document))
    assert isinstance(refusal(), Unavailable)
    assert unwrapped == []


def test_who_made_a_version_is_no_word_of_a_column(place: Place) -> None:
    """A trainer may delete what it has made: by the signed manifest, whatever the ledger says."""
    place.set("versions", "created_by", "local:trainer", M1)
    with connect() as vault, as_somebody(vault, "trainer", "trainers") as trainer:
        for attempt in (lambda: trainer.delete("m@1"), lambda: trainer.tag("m@1", "mine")):
            with pytest.raises((AccessDenied, IntegrityError)):
                attempt()
