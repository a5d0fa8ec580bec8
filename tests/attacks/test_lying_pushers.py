"""A pusher with a client of its own: whatever it keeps quiet about, nobody else pays for it."""

from __future__ import annotations

import io
import json
import os
import pickle
import secrets
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from modelvault import connect, wiring
from modelvault.client import push as pushing
from modelvault.client.session import Session
from modelvault.errors import (
    AccessDenied,
    Conflict,
    IntegrityError,
    InvalidRequest,
    NotFound,
    Unavailable,
)
from modelvault.manifest import Manifest
from modelvault.upload import Draft, DraftFile, TaggedFile
from support.attacked import as_somebody, folder
from support.homes import isolated, safetensors_bytes

RAN = "pickle-ran"


class Bomb:
    """Leaves a folder behind when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (RAN,)


def torch_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/padding", bytes(9000))
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb(), 2))
    return out.getvalue()


PICKLES = {
    "w.pt": pickle.dumps(Bomb(), 2),
    "notes.txt": pickle.dumps(Bomb(), 4),
    "model.safetensors": pickle.dumps(Bomb(), 5),
    "old.dat": pickle.dumps(Bomb(), 0),
    "archive.zip": torch_zip(),
}


@pytest.fixture
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    isolated(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    wiring.init(segment_length=4096)
    with connect() as session:
        session.create("m")
        yield session


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that finds no pickles, whatever there is."""
    honest = pushing.inspection
    monkeypatch.setattr(
        pushing,
        "inspection",
        lambda *args: msgspec.structs.replace(honest(*args), formats=("json",), pickles=()),
    )


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("path", PICKLES)
def test_a_pickle_that_nobody_told_of(vault: Session, tmp_path: Path, path: str) -> None:
    vault.push(folder(tmp_path / "in", {path: PICKLES[path], "a.json": b"{}"}), "m")
    with vault.load("m", purpose="inference") as model:
        for use in (model.read_bytes, model.open, model.path, model.tensors):
            with pytest.raises(AccessDenied) as caught:
                use(path)
            assert caught.value.code == "pickle_refused"
            assert path in caught.value.message
            assert caught.value.hint
        assert model.open("a.json").read() == b"{}"
    with pytest.raises(AccessDenied) as refused:
        vault.export("m", tmp_path / "out")
    assert refused.value.code == "pickle_refused"
    assert sorted(entry.name for entry in tmp_path.iterdir() if "out" in entry.name) == []
    assert vault.leases() == ()
    vault.export("m", tmp_path / "out", files=["a.json"])  # what is harmless may be had
    assert not (tmp_path / RAN).exists()


def entries(vault: Session, reference: str) -> Manifest:
    signed = vault.show(reference).signed
    assert signed is not None
    return Manifest.from_bytes(signed.manifest.payload)


def drafting(vault: Session, monkeypatch: pytest.MonkeyPatch, lie: Callable[[Draft], Draft]) -> Any:
    """The session's broker gets another draft than the client made."""
    real = vault._context.broker.commit

    class Changed:
        def __getattr__(self, name: str) -> Any:
            return getattr(vault._context.broker, name)

        def commit(self, caller: Any, upload: str, draft: Draft) -> Any:
            return real(caller, upload, lie(draft))

    return Session(msgspec.structs.replace(vault._context, broker=Changed()))


def one(draft: Draft, **changes: object) -> Draft:
    file: DraftFile = msgspec.structs.replace(draft.files[0], **changes)
    return msgspec.structs.replace(draft, files=(file, *draft.files[1:]))


def test_objects_of_somebody_elses_model(
    vault: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may push to one model doesn't get at another's plaintext by naming its objects."""
    vault.create("secret")
    vault.push(folder(tmp_path / "in", {"a.dat": b"s" * 100}), "secret")
    theirs = entries(vault, "secret@1").files[0]
    liar = drafting(
        vault,
        monkeypatch,
        lambda draft: one(draft, object=theirs.object, leaves=theirs.leaves, digest=theirs.digest),
    )
    with pytest.raises(InvalidRequest) as caught:
        liar.push(tmp_path / "in", "m")
    assert caught.value.code == "objects_in_use"
    assert vault.show("m").versions == ()


LIES: dict[str, Callable[[Draft], Draft]] = {
    "another size": lambda d: one(d, size=d.files[0].size + 1),
    "another path": lambda d: one(d, path="b.dat"),
    "a path above": lambda d: one(d, path="../a.dat"),
    "no such object": lambda d: one(d, object=f"objects/{secrets.token_hex(16)}"),
    "the keyring as object": lambda d: one(d, object="keyring.json"),
    "a path as object": lambda d: one(d, object="objects/../../etc/passwd"),
    "the leaf list as object": lambda d: one(d, object=d.files[0].leaves),
    "another digest": lambda d: one(d, digest="blake3:" + "0" * 64),
    "another algorithm": lambda d: one(d, digest="sha256:" + "0" * 64),
    "a file twice": lambda d: msgspec.structs.replace(d, files=d.files * 2),
    "no file": lambda d: msgspec.structs.replace(d, files=()),
    "a pickle that isn't there": lambda d: msgspec.structs.replace(
        d, hints=msgspec.structs.replace(d.hints, pickles=("x.pt",))
    ),
    "a label that is too long": lambda d: msgspec.structs.replace(d, labels={"a": "x" * 257}),
    "too many labels": lambda d: msgspec.structs.replace(
        d, labels={f"{n}": "x" for n in range(65)}
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_draft_that_lies(
    vault: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    liar = drafting(vault, monkeypatch, LIES[lie])
    with pytest.raises((InvalidRequest, IntegrityError)):
        liar.push(folder(tmp_path / "in", {"a.dat": b"a" * 100}), "m")
    assert vault.show("m").versions == ()
    vault.push(tmp_path / "in", "m")  # and the next one works


# Files that are said to be unchanged


def unchanged(draft: Draft, **changes: object) -> Draft:
    """All files are told to be unchanged, with the tags that they were pushed with."""
    files = tuple(
        msgspec.structs.replace(TaggedFile(path=file.path, content=file.content), **changes)
        for file in draft.files
    )
    return msgspec.structs.replace(draft, files=(), unchanged=(*draft.unchanged, *files))


CLAIMS: dict[str, tuple[dict[str, bytes], Callable[[Draft], Draft]]] = {
    "other contents": ({"a.dat": b"b" * 100}, unchanged),
    "another size": ({"a.dat": b"a" * 101}, unchanged),
    "another path": ({"b.dat": b"a" * 100}, unchanged),
    "another path's tag": (
        {"a.dat": b"b" * 100},
        lambda d: unchanged(d, content=bytes(32)),
    ),
    "a path that wasn't declared": ({"b.dat": b"a" * 100}, lambda d: unchanged(d, path="a.dat")),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_what_isnt_unchanged(
    vault: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claim: str
) -> None:
    files, lie = CLAIMS[claim]
    vault.push(folder(tmp_path / "in", {"a.dat": b"a" * 100}), "m")
    liar = drafting(vault, monkeypatch, lie)
    with pytest.raises(InvalidRequest) as caught:
        liar.push(folder(tmp_path / "other", files), "m")
    assert caught.value.code in {"not_unchanged", "not_as_declared"}
    assert len(vault.show("m").versions) == 1
    vault.push(tmp_path / "other", "m")


def test_unchanged_files_of_another_model_or_of_an_older_version(
    vault: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The right contents, path and size, pushed by the same identity: but not in the version that
    the push is compared with."""
    vault.create("other")
    vault.push(folder(tmp_path / "in", {"a.dat": b"a" * 100}), "other")
    liar = drafting(vault, monkeypatch, unchanged)
    for _ in range(2):
        with pytest.raises(InvalidRequest) as caught:
            liar.push(tmp_path / "in", "m")
        assert caught.value.code == "not_unchanged"
        vault.push(tmp_path / "in", "m")
        vault.push(folder(tmp_path / "newer", {"a.dat": b"b" * 100}), "m")


def test_a_file_under_another_ones_tag_is_in_nobody_elses_version(
    vault: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker can't check a tag. Who pushes weights with a backdoor under the tag of the good
    ones waits in vain that somebody else's push takes the bad ones for unchanged."""
    good, bad = {"a.dat": b"g" * 100}, {"a.dat": b"b" * 100}
    tags: list[bytes] = []

    def note(draft: Draft) -> Draft:
        tags.append(draft.files[0].content)
        return draft

    with as_somebody(vault, "mallory", "admins") as mallory:
        noting = drafting(mallory, monkeypatch, note)
        noting.push(folder(tmp_path / "good", good), "m")  # to know the tag
        liar = drafting(mallory, monkeypatch, lambda d: one(d, content=tags[0]))
        liar.push(folder(tmp_path / "bad", bad), "m")
        assert mallory.push(tmp_path / "good", "m").unchanged == ("a.dat",)
        with vault.load("m@3", purpose="inference") as model:
            assert model.open("a.dat").read() == bad["a.dat"]  # they deceived themselves
    pushed = vault.push(tmp_path / "good", "m")
    assert pushed.unchanged == ()
    with vault.load(f"m@{pushed.version}", purpose="inference") as model:
        assert model.open("a.dat").read() == good["a.dat"]


def test_a_pusher_that_may_not_load_learns_nothing_of_others_files(
    vault: Session, tmp_path: Path
) -> None:
    """No guess at another identity's file is answered, neither by candidates nor by comparing."""
    vault.push(folder(tmp_path / "in", {"config.json": b'{"password": "1234"}'}), "m")
    with as_somebody(vault, "mallory", "admins") as mallory:
        context, asked = mallory._context, []
        real = context.broker

        class Asking:
            """Compares all files, whatever the candidates are."""

            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            def open_version(self, caller: Any, ask: Any) -> Any:
                upload = real.open_version(caller, ask)
                asked.append(upload.candidates)
                return msgspec.structs.replace(upload, candidates=("config.json",))

            def compare(self, *arguments: Any) -> Any:
                compared = real.compare(*arguments)
                asked.append(compared.files)
                return compared

        session = Session(msgspec.structs.replace(context, broker=Asking()))
        session.push(tmp_path / "in", "m")  # the right guess
    assert asked == [(), ()]


def test_somebody_elses_upload(vault: Session, tmp_path: Path) -> None:
    """Neither committed nor given up nor told of, and still good for who opened it."""
    real = vault._context
    held: list[tuple[Any, str, Draft]] = []

    class Held:
        def __getattr__(self, name: str) -> Any:
            return getattr(real.broker, name)

        def commit(self, caller: Any, upload: str, draft: Draft) -> Any:
            held.append((caller, upload, draft))
            raise Conflict("later", "later")

        def abandon(self, caller: Any, upload: str) -> None:
            raise Unavailable("later", "later")

    with pytest.raises(Conflict):
        Session(msgspec.structs.replace(real, broker=Held())).push(
            folder(tmp_path / "in", {"a.dat": b"a"}), "m"
        )
    ((caller, upload, draft),) = held
    said = []
    with as_somebody(vault, "mallory", "admins") as other:
        credentials = other._context.credentials
        for name in (upload, "0" * 32):
            with pytest.raises(NotFound) as caught:
                real.broker.commit(credentials.caller(), name, draft)
            said.append((caught.value.code, caught.value.message, caught.value.hint))
            with pytest.raises(NotFound) as caught:
                real.broker.abandon(credentials.caller(), name)
            said.append((caught.value.code, caught.value.message, caught.value.hint))
    assert len(set(said)) == 1
    assert real.broker.commit(caller, upload, draft).version == 1


# Headers that lie, in files as they are pushed: the version stands, no view is ever made.


def lying(header: object, body: bytes = b"\0" * 16) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def tensor(begin: object, end: object, shape: object = (4,), dtype: object = "F32") -> object:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HEADERS: dict[str, bytes] = {
    "outside": lying({"a": tensor(0, 4096, (1024,))}),
    "overlapping": lying({"a": tensor(0, 16), "b": tensor(8, 24)}, bytes(24)),
    "the same bytes twice": lying({"a": tensor(0, 16), "b": tensor(0, 16)}),
    "negative": lying({"a": tensor(-16, 0)}),
    "backwards": lying({"a": tensor(16, 0)}),
    "huge": lying({"a": tensor(0, 2**63, (2**61,))}),
    "huge shape of nothing": lying({"a": tensor(0, 0, (0, 2**53, 2**53))}, b""),
    "beyond 64 bits": lying({"a": tensor(0, 2**70, (2**68,))}),
    "negative shape": lying({"a": tensor(0, 16, (-4,))}),
    "a shape of floats": lying({"a": tensor(0, 16, (4.0,))}),
    "wrong dtype": lying({"a": tensor(0, 16, (4,), "F64")}),
    "no such dtype": lying({"a": tensor(0, 16, (4,), "O")}),
    "a dtype that isn't text": lying({"a": tensor(0, 16, (4,), 3)}),
    "a hole": lying({"a": tensor(0, 8, (2,)), "b": tensor(12, 16, (1,))}),
    "bytes behind": lying({"a": tensor(0, 8, (2,))}),
    "a key twice": lying(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{}}'),
    "an unknown field": lying({"a": {**dict(tensor(0, 16)), "x": 1}}),  # type: ignore[call-overload]
    "a header longer than the file": (2**20).to_bytes(8, "little") + b"{}" + bytes(16),
    "a header of 2^63": (2**63).to_bytes(8, "little") + b"{}" + bytes(16),
    "deep": lying(b'{"a":' * 100 + b"1" + b"}" * 100),
    "numbers of another kind": lying(b'{"a":{"dtype":"F32","shape":[1e0],"data_offsets":[0,16]}}'),
    "too short": b"\0\0\0",
}


def test_lying_headers(vault: Session, tmp_path: Path) -> None:
    files = {f"{at:02}.safetensors": data for at, data in enumerate(HEADERS.values())}
    good = safetensors_bytes({"w": np.arange(4, dtype=np.float32)})
    vault.push(folder(tmp_path / "in", {**files, "good.safetensors": good}), "m")
    with vault.load("m", purpose="inference") as model:
        for path, case in zip(files, HEADERS, strict=True):
            for use in (model.tensors, lambda name: model.tensor("a", name)):
                with pytest.raises(IntegrityError) as caught:
                    use(path)
                assert caught.value.code == "bad_safetensors", case
                assert path in caught.value.message, case
                assert caught.value.hint
        with pytest.raises(IntegrityError):
            model.tensors()
        views = model.tensors("good.safetensors")
        np.testing.assert_array_equal(views["w"], np.arange(4, dtype=np.float32))
        del views
