"""Pushing a model again: only what changed is read into the store, and all of it comes back."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from modelvault import connect, wiring
from modelvault.adapters.keys_local import KeyFile, LocalKeyring
from modelvault.client.scan import Found
from modelvault.client.session import Session
from modelvault.client.source import Source
from modelvault.crypto import derive
from modelvault.errors import Conflict, IntegrityError
from modelvault.manifest import Manifest
from modelvault.ports.keys import WrappedKey
from modelvault.upload import Compared
from oracle import second_reader
from support.attacked import as_somebody, rows
from support.command import call
from support.homes import isolated

SIZE = (5 << 20) + 3


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = isolated(tmp_path, monkeypatch)
    wiring.init()
    with connect() as vault:
        vault.create("m")
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    (made / "sub").mkdir(parents=True)
    (made / "weights.dat").write_bytes(os.urandom(SIZE))
    (made / "sub" / "chat.txt").write_text("template")
    return made


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many plaintext bytes are read of each file, but for the first ones, which tell its
    format."""
    counts: Counter[str] = Counter()
    real = Source.read_into

    def read_into(self: Source, offset: int, buffer: memoryview) -> None:
        found: Found = self._found
        if len(buffer) == min(found.size - offset, (1 << 20) - 32):
            counts[found.path] += len(buffer)
        real(self, offset, buffer)

    monkeypatch.setattr(Source, "read_into", read_into)
    return counts


def stored(home: Path) -> int:
    """Bytes of all objects."""
    return sum(path.stat().st_size for path in (home / "objects").rglob("*") if path.is_file())


def manifest(vault: Session, reference: str) -> Manifest:
    signed = vault.show(reference).signed
    assert signed is not None
    return Manifest.from_bytes(signed.manifest.payload)


def same(vault: Session, reference: str, folder: Path) -> None:
    with vault.load(reference, purpose="inference") as model:
        for path in model.files:
            assert model.open(path).read() == (folder / path).read_bytes()


def test_a_small_file_that_changed(home: Path, folder: Path, read: Counter[str]) -> None:
    with connect() as vault:
        first = vault.push(folder, "m")
        assert (first.unchanged, first.unchanged_size) == ((), 0)
        assert read["weights.dat"] == SIZE  # no earlier file: one read
        before, changed = stored(home), "another template, of another size"
        (folder / "sub" / "chat.txt").write_text(changed)
        seen: list[tuple[int, int]] = []
        second = vault.push(folder, "m:prod", progress=lambda *told: seen.append(told))
        assert (second.unchanged, second.unchanged_size) == (("weights.dat",), SIZE)
        assert stored(home) - before == 74 + len(changed) + 32 + 2 * 32
        assert read["weights.dat"] == 2 * SIZE
        assert seen[-1] == (2 * SIZE + len(changed), 2 * SIZE + len(changed))
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        assert {total for _, total in seen} == {2 * SIZE + len(changed)}
        same(vault, "m:prod", folder)
        vault.rotate("m")
        same(vault, "m:prod", folder)
        told = vault.entries(reference="m").entries
        compared = [one.details for one in told if one.details.get("step") == "compare"]
        assert [(one["files"], one["unchanged"]) for one in compared] == [(1, 1)]


def test_nothing_changed(home: Path, folder: Path) -> None:
    with connect() as vault:
        vault.push(folder, "m")
        before = stored(home)
        pushed = vault.push(folder, "m", labels={"why": "a new label"})
        assert pushed.unchanged == ("sub/chat.txt", "weights.dat")
        assert (pushed.version, stored(home)) == (2, before)
        same(vault, "m", folder)
        assert manifest(vault, "m").labels == {"why": "a new label"}


def test_a_large_file_that_changed_keeping_its_size(
    home: Path, folder: Path, read: Counter[str]
) -> None:
    """It is read twice, and both reads are of one state."""
    with connect() as vault:
        vault.push(folder, "m")
        with (folder / "weights.dat").open("r+b") as file:
            file.seek(SIZE - 1)
            last = file.read(1)
            file.seek(SIZE - 1)
            file.write(bytes([last[0] ^ 1]))
        read.clear()
        pushed = vault.push(folder, "m")
        assert pushed.unchanged == ("sub/chat.txt",)
        assert read["weights.dat"] == 2 * SIZE
        same(vault, "m", folder)
        same_again = vault.push(folder, "m")
        assert same_again.unchanged == ("sub/chat.txt", "weights.dat")


def test_upload_all(home: Path, folder: Path, read: Counter[str]) -> None:
    with connect() as vault:
        vault.push(folder, "m")
        before = stored(home)
        pushed = vault.push(folder, "m", upload_all=True)
        assert pushed.unchanged == ()
        assert stored(home) == 2 * before
        assert read["weights.dat"] == 2 * SIZE
        assert {file.artifact for file in manifest(vault, "m").files} == {
            manifest(vault, "m").artifact
        }
        same(vault, "m", folder)


@pytest.mark.parametrize("when", ["reading", "after"])
def test_a_file_that_changes_after_it_was_compared(
    home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Also when it is not read any more: the version would be of no state that the folder had."""
    with connect() as vault:
        vault.push(folder, "m")
        (folder / "sub" / "chat.txt").write_text("other size of this file")
        before = stored(home)

        def change(done: int, _total: int) -> None:
            if done >= (1 << 20 if when == "reading" else 2 * SIZE):
                os.utime(folder / "weights.dat", ns=(1, 1))

        with pytest.raises(Conflict) as caught:
            vault.push(folder, "m", progress=change)
        assert caught.value.code == "file_changed"
        assert "weights.dat" in caught.value.message
        assert manifest(vault, "m").version == 1
        assert stored(home) == before


def test_a_damaged_store_and_the_way_out(home: Path, folder: Path) -> None:
    with connect() as vault:
        vault.push(folder, "m")
        broken = home / next(f for f in manifest(vault, "m").files if f.size == SIZE).object
        broken.unlink()
        with pytest.raises(IntegrityError) as caught:
            vault.push(folder, "m")
        assert caught.value.code == "earlier_damaged"
        assert "upload_all=True" in caught.value.hint
        vault.push(folder, "m", upload_all=True)
        same(vault, "m", folder)


def test_somebody_elses_files_are_uploaded(home: Path, folder: Path) -> None:
    with connect() as vault:
        vault.push(folder, "m")
        before = stored(home)
        with as_somebody(vault, "bob", "admins") as bob:
            assert bob.push(folder, "m").unchanged == ()
            assert stored(home) == 2 * before
            assert bob.push(folder, "m").unchanged == ("sub/chat.txt", "weights.dat")
        assert vault.push(folder, "m").unchanged == ("sub/chat.txt", "weights.dat")
        assert stored(home) == 2 * before
        ours, theirs = manifest(vault, "m@4"), manifest(vault, "m@3")
        assert {f.object for f in ours.files} == {f.object for f in manifest(vault, "m@1").files}
        assert {f.object for f in theirs.files} == {f.object for f in manifest(vault, "m@2").files}


def test_a_broker_that_takes_other_files_for_unchanged(home: Path, folder: Path) -> None:
    """What it wasn't asked about, or what isn't in the version afterwards, is noticed."""
    with connect() as vault:
        vault.push(folder, "m")
        real = vault._context.broker

        class Liar:
            def __init__(self, lie: str) -> None:
                self.lie = lie

            def __getattr__(self, name: str) -> object:
                return getattr(real, name)

            def compare(self, *arguments: object) -> Compared:
                files = list(real.compare(*arguments).files)  # type: ignore[arg-type]
                changes: dict[str, object] = {
                    "another path": {"path": "other"},
                    "another size": {"size": 1},
                    "another object": {"object": "objects/" + "0" * 32},
                }
                files[0] = msgspec.structs.replace(files[0], **changes[self.lie])  # type: ignore[arg-type]
                return Compared(files=tuple(files))

        for lie in ("another path", "another size", "another object"):
            context = msgspec.structs.replace(vault._context, broker=Liar(lie))
            with pytest.raises(IntegrityError) as caught:
                Session(context).push(folder, "m")
            assert caught.value.code in {"not_what_was_asked", "not_what_was_pushed"}


def test_the_second_reader_reads_files_of_three_artifacts(
    home: Path, folder: Path, tmp_path: Path
) -> None:
    """All that a version refers to is in a pulled folder; each key is of the file's artifact."""
    with connect() as vault:
        vault.push(folder, "m")
        (folder / "second").write_bytes(b"2" * 3000)
        vault.push(folder, "m")
        (folder / "third").write_bytes(b"3")
        vault.push(folder, "m")
        made = vault.pull("m@3", tmp_path / "out")
        assert len({file.artifact for file in made.files}) == 3
        vault.rotate("m")
    deks = unwrapped(home, made)
    signed = {
        name: json.loads((tmp_path / "out" / f"{name}.json").read_bytes())
        for name in ("model", "manifest")
    }

    def key_of(entry: dict) -> bytes:
        return second_reader.file_key(deks[entry["artifact"]], entry["artifact"], entry["path"])

    found = second_reader.read_version(
        tmp_path / "out", tmp_path / "out" / "trust.json", signed, ("default", "m"), key_of
    )
    assert found == {path: (folder / path).read_bytes() for path in found}
    assert len(found) == 4


def unwrapped(home: Path, manifest: Manifest) -> dict[str, bytes]:
    """The DEKs of a version by artifact, as whoever has the home and its root key gets them."""
    root = json.loads((home / "vault.json").read_bytes())["root"]["path"]
    keyring = LocalKeyring(home / "keyring.json", KeyFile(Path(root)))
    name = (manifest.vault, manifest.tenant, manifest.model)
    deks = {}
    for artifact in {file.artifact for file in manifest.files}:
        ((wrapped, version),) = rows(
            home, "select wrapped, kek_version from keys where artifact = ?", artifact
        )
        key = WrappedKey(wrapped, version)  # type: ignore[arg-type]
        context = derive.key_context(*name, artifact)
        with keyring.unwrap(derive.kek_name(*name), key, context) as dek:
            deks[artifact] = bytes(dek.reveal())
    keyring.close()
    return deks


def test_what_the_command_tells(
    home: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = call(capsys, "--json", "push", folder, "m").document("push")
    assert (first.unchanged, first.unchanged_size) == (0, 0)
    told = call(capsys, "push", folder, "m")
    assert "unchanged:" in told.out
    assert "5.0 MiB in 2 files, not uploaded again" in told.out
    (folder / "sub" / "chat.txt").write_text("one file only is as it was")
    second = call(capsys, "--json", "push", folder, "m").document("push")
    assert (second.unchanged, second.unchanged_size, second.files) == (1, SIZE, 2)
    whole = call(capsys, "--json", "push", folder, "m", "--upload-all").document("push")
    assert (whole.unchanged, whole.unchanged_size, whole.version) == (0, 0, 4)
