from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from modelvault.artifact.reader import FileReader
from modelvault.client.keys import PushKeys
from modelvault.client.scan import Scan, scan
from modelvault.client.source import Source
from modelvault.client.upload import Uploader
from modelvault.crypto.secret import Secret
from modelvault.errors import Conflict, IntegrityError, InvalidRequest, ModelVaultError, Unavailable
from modelvault.manifest import FileEntry
from modelvault.upload import Upload
from support.memory_store import MemoryStore

UPLOAD = Upload(
    id="01" * 16,
    tenant="default",
    model="m",
    artifact="02" * 16,
    segment_length=1 << 20,
    digest_alg="blake3",
    expires_at="2026-01-01T00:00:00.000Z",
    sealed=b"",
)
LARGE = (3 << 20) + 5


class Store(MemoryStore):
    """Keeps deletes too; may fail when the object number `fails_at` is put."""

    def __init__(self, fails_at: int = 1 << 30) -> None:
        super().__init__()
        self.fails_at = fails_at
        self.puts = 0

    def put(self, name: str, sizes: object, fill: object) -> None:  # type: ignore[override]
        self.puts += 1
        if self.puts > self.fails_at:
            raise Unavailable("store_full", "the disk is full")
        super().put(name, sizes, fill)  # type: ignore[arg-type]

    def name(self, seed: str) -> str:
        return f"objects/{seed}"

    def delete(self, name: str) -> None:
        self.objects.pop(name, None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "large.bin").write_bytes(os.urandom(LARGE))
    for number in range(20):
        (made / f"small{number:02}").write_bytes(os.urandom(number * 10))
    return made


def uploader(
    store: Store,
    found: Scan,
    *,
    progress: Callable[[int], None] = lambda _count: None,
    public_metadata: bool = False,
) -> tuple[Uploader, dict[str, Secret]]:
    keys, contents = ({each.path: Secret.random(32) for each in found.files} for _ in range(2))
    made = Uploader(
        UPLOAD,
        PushKeys(keys, contents),
        store,  # type: ignore[arg-type]
        public_metadata=public_metadata,
        progress=progress,
    )
    return made, keys


def test_all_files_come_back_from_what_was_put(folder: Path) -> None:
    store, done = Store(), []
    found = scan(folder)
    made, keys = uploader(store, found, progress=done.append)
    sent = made.send(found.files)
    assert [each.file.path for each in sent] == [each.path for each in found.files]
    assert sum(done) == found.size
    assert len(store.objects) == 2 * len(sent)
    for each in sent:
        entry = FileEntry(
            path=each.file.path,
            size=each.file.size,
            segment_length=UPLOAD.segment_length,
            artifact=UPLOAD.artifact,
            object=each.file.object,
            leaves=each.file.leaves,
            digest=each.file.digest,
        )
        data = bytearray(each.file.size)
        FileReader(store, entry, keys[entry.path], "blake3", 1).read_into(0, memoryview(data))
        assert data == (folder / entry.path).read_bytes()


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))  # a time that differs for sure, whatever the clock's steps


CHANGES: dict[str, Callable[[Path], object]] = {
    "rewritten": lambda path: write(path, os.urandom(LARGE)),
    "shorter": lambda path: os.truncate(path, 100),
    "longer": lambda path: write(path, b"x" * (LARGE + 1)),
    "touched": lambda path: os.utime(path, ns=(1, 1)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_file_that_changes_while_it_is_read(
    folder: Path, change: Callable[[Path], object]
) -> None:
    store, done = Store(), []
    found = scan(folder)

    def progress(count: int) -> None:
        if not done:
            change(folder / "large.bin")
        done.append(count)

    made, _ = uploader(store, found, progress=progress)
    with pytest.raises(Conflict, match=r"large\.bin") as caught:
        made.send(found.files)
    assert caught.value.code == "file_changed"
    assert not store.objects


def replaced(path: Path) -> None:
    new = path.with_name("new")
    new.write_bytes(path.read_bytes())
    new.replace(path)


def linked(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


BEFORE: dict[str, tuple[Callable[[Path], object], type[ModelVaultError], str]] = {
    "gone": (Path.unlink, Conflict, "file_changed"),
    "replaced by another file": (replaced, Conflict, "file_changed"),
    "replaced by a link": (linked, InvalidRequest, "unreadable"),
    "replaced by a pipe": (lambda p: (p.unlink(), os.mkfifo(p)), Conflict, "file_changed"),
    "replaced by a folder": (lambda p: (p.unlink(), p.mkdir()), Conflict, "file_changed"),
    "touched": (lambda p: os.utime(p, ns=(1, 1)), Conflict, "file_changed"),
}


@pytest.mark.parametrize(("change", "family", "code"), BEFORE.values(), ids=BEFORE)
@pytest.mark.parametrize("name", ["large.bin", "small05"])
def test_a_file_that_changes_before_it_is_read(
    folder: Path, name: str, change: Callable[[Path], object], family: type, code: str
) -> None:
    store = Store()
    found = scan(folder)
    made, _ = uploader(store, found)
    change(folder / name)
    with pytest.raises(family, match=name) as caught:
        made.send(found.files)
    assert caught.value.code == code
    assert not store.objects


@pytest.mark.parametrize("at", [0, 1, 2, 3, 10, 41])
def test_a_full_disk_leaves_nothing(folder: Path, at: int) -> None:
    store = Store(fails_at=at)
    found = scan(folder)
    made, _ = uploader(store, found)
    with pytest.raises(Unavailable) as caught:
        made.send(found.files)
    assert caught.value.code == "store_full"
    assert not store.objects


@pytest.mark.parametrize("after", [1, 3_000_000, LARGE + 50])
def test_ctrl_c_leaves_nothing(folder: Path, after: int) -> None:
    store, done = Store(), []
    found = scan(folder)

    def progress(count: int) -> None:
        done.append(count)
        if sum(done) >= after:
            raise KeyboardInterrupt

    made, _ = uploader(store, found, progress=progress)
    with pytest.raises(KeyboardInterrupt):
        made.send(found.files)
    assert not store.objects


def test_a_store_that_cannot_delete_does_not_hide_why_it_failed(folder: Path) -> None:
    class Stuck(Store):
        def delete(self, name: str) -> None:
            raise Unavailable("store_down", "no")

    found = scan(folder)
    made, _ = uploader(Stuck(fails_at=3), found)
    with pytest.raises(Unavailable) as caught:
        made.send(found.files)
    assert caught.value.code == "store_full"


def test_reading_that_fails_names_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: object) -> int:
        raise OSError(5, "Input/output error")

    (found,) = scan(folder / "large.bin").files
    with Source(found) as source:
        monkeypatch.setattr(os, "preadv", broken)
        with pytest.raises(InvalidRequest, match=r"large\.bin.*Input/output"):
            source.read(0, 10)


def safetensors(header: dict[str, object], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_public_metadata_only_where_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    header = {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    path.write_bytes(safetensors(header, bytes(24)))
    found = scan(path)
    (plain,) = uploader(Store(), found)[0].send(found.files)
    assert (plain.format, plain.tensors) == ("safetensors", ())
    (public,) = uploader(Store(), found, public_metadata=True)[0].send(found.files)
    (tensor,) = public.tensors
    assert (tensor.file, tensor.name, tensor.dtype) == ("m.safetensors", "w", "F32")
    assert (tensor.shape, tensor.bytes) == ((2, 3), 24)


def test_public_metadata_of_a_header_that_lies_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    header = {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 99]}}
    path.write_bytes(safetensors(header, bytes(24)))
    found, store = scan(path), Store()
    with pytest.raises(IntegrityError):
        uploader(store, found, public_metadata=True)[0].send(found.files)
    assert not store.objects


@pytest.mark.parametrize(("member", "kind"), [("a/data.pkl", "torch-zip"), ("a.txt", "zip")])
def test_archives_are_looked_into(tmp_path: Path, member: str, kind: str) -> None:
    path = tmp_path / "archive"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("padding", "x" * 5000)  # beyond the first bytes
        archive.writestr(member, "x")
    (found,) = scan(path).files
    with Source(found) as source:
        assert source.format() == kind


def test_half_an_archive_is_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(b"PK\x03\x04" + bytes(6000))
    (found,) = scan(path).files
    with Source(found) as source:
        assert source.format() == "zip"
