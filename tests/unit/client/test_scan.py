from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from modelvault.client import scan as scanning
from modelvault.client.scan import scan
from modelvault.errors import InvalidRequest, ModelVaultError

NFC, NFD = "caf\u00e9.bin", "cafe\u0301.bin"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "weights.bin").write_bytes(b"12345")
    return made


def paths(path: Path, **options: bool) -> list[str]:
    return [found.path for found in scan(path, **options).files]


def test_a_folder_deep_in_order_with_sizes(folder: Path) -> None:
    (folder / "b" / "a").mkdir(parents=True)
    (folder / "b" / "a" / "empty").touch()
    (folder / "b.txt").write_text("x")
    (folder / "Z").write_text("zz")
    found = scan(folder)
    assert [(each.path, each.size) for each in found.files] == [
        ("Z", 2),
        ("b.txt", 1),
        ("b/a/empty", 0),
        ("weights.bin", 5),
    ]
    assert (found.size, found.skipped) == (8, ())


def test_a_file_by_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths(folder / "weights.bin") == ["weights.bin"]
    (folder / ".hidden").write_text("x")
    assert paths(folder / ".hidden") == [".hidden"]
    (folder / "latest").symlink_to("weights.bin")
    assert paths(folder / "latest") == ["latest"]
    monkeypatch.chdir(folder)
    assert paths(Path()) == ["latest", "weights.bin"]


def test_hidden_names_are_left_out_and_told(folder: Path) -> None:
    for name in (".git", ".cache", "__pycache__"):
        (folder / name).mkdir()
        (folder / name / "x").write_text("x")
    (folder / ".env").write_text("PASSWORD=x")
    found = scan(folder)
    assert [each.path for each in found.files] == ["weights.bin"]
    assert found.skipped == (".cache", ".env", ".git", "__pycache__")


def test_links_inside_are_followed(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "x").write_text("x")
    (folder / "also").symlink_to("sub")
    (folder / "link.bin").symlink_to(folder / "weights.bin")
    assert paths(folder) == ["also/x", "link.bin", "sub/x", "weights.bin"]


def test_a_hugging_face_cache_needs_follow_links(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "0123").write_bytes(b"weights")
    (snapshot / "model.safetensors").symlink_to("../../blobs/0123")
    with pytest.raises(InvalidRequest) as caught:
        scan(snapshot)
    assert caught.value.code == "link_leaves_folder"
    assert "model.safetensors" in caught.value.message
    assert "--follow-links" in caught.value.hint
    (found,) = scan(snapshot, follow_links=True).files
    assert (found.path, found.source, found.size) == ("model.safetensors", blobs / "0123", 7)


def test_a_root_that_is_a_link_is_the_folder_it_means(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert paths(tmp_path / "link") == ["weights.bin"]


def test_a_name_in_another_unicode_form_is_stored_in_nfc(folder: Path) -> None:
    (folder / NFD).write_text("x")
    assert paths(folder) == [NFC, "weights.bin"]


def _socket(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "sock"))


def _deep(folder: Path) -> None:
    for _ in range(70):
        folder /= "d"
        folder.mkdir()


def _two(first: str, second: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / name).write_text("x") for name in (first, second)]


def _non_utf8(folder: Path) -> None:
    (folder / os.fsdecode(b"bad\xff.bin")).write_text("x")


def _over_limit(folder: Path) -> None:
    folder /= "n" * 250
    for _ in range(4):
        folder /= "n" * 250
    folder.mkdir(parents=True)
    (folder / "f").write_text("x")


BAD: list[tuple[str, Callable[[Path], object], str, str]] = [
    ("fifo", lambda f: os.mkfifo(f / "pipe"), "not_a_file", "pipe is a FIFO"),
    ("socket", _socket, "not_a_file", "sock is a socket"),
    ("device", lambda f: (f / "null").symlink_to("/dev/null"), "link_leaves_folder", "null"),
    ("leaves", lambda f: (f / "up").symlink_to("/etc/passwd"), "link_leaves_folder", "up"),
    ("folder out", lambda f: (f / "up").symlink_to("/etc"), "link_leaves_folder", "up"),
    ("dangling", lambda f: (f / "gone").symlink_to("nothing"), "broken_link", "gone"),
    ("to itself", lambda f: (f / "me").symlink_to("me"), "unreadable", "me"),
    ("loop", lambda f: (f / "loop").symlink_to("."), "link_loop", "loop"),
    ("case", _two("Model.bin", "model.BIN"), "bad_path", "model.BIN"),
    ("unicode form", _two(NFC, NFD), "bad_path", "Unicode form"),
    ("not utf-8", _non_utf8, "bad_path", "UTF-8"),
    ("backslash", _two("a\\b", "c"), "bad_path", "backslash"),
    ("name over limit", _over_limit, "bad_path", "limit is 1024"),
    ("too deep", _deep, "bad_path", "nested deeper"),
]


@pytest.mark.parametrize(
    ("make", "code", "says"), [row[1:] for row in BAD], ids=[r[0] for r in BAD]
)
def test_what_cannot_be_pushed(
    folder: Path, make: Callable[[Path], object], code: str, says: str
) -> None:
    make(folder)
    with pytest.raises(InvalidRequest) as caught:
        scan(folder)
    assert caught.value.code == code
    assert says in caught.value.message
    assert caught.value.hint


def test_a_device_is_refused_even_when_links_are_followed(folder: Path) -> None:
    (folder / "null").symlink_to("/dev/null")
    with pytest.raises(InvalidRequest, match="character device"):
        scan(folder, follow_links=True)


@pytest.mark.parametrize("hidden", [True, False])
def test_an_empty_folder(tmp_path: Path, hidden: bool) -> None:
    if hidden:
        (tmp_path / ".git").mkdir()
    with pytest.raises(InvalidRequest) as caught:
        scan(tmp_path)
    assert caught.value.code == "no_files"
    assert (".git" in caught.value.message) is hidden


def test_an_empty_path_is_not_the_current_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(InvalidRequest, match="empty") as caught:
        scan("")
    assert caught.value.code == "no_such_path"


@pytest.mark.parametrize("name", ["none", "none/deeper"])
def test_a_missing_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match="none") as caught:
        scan(tmp_path / name)
    assert caught.value.code == "no_such_path"


def test_a_single_file_with_a_bad_name(tmp_path: Path) -> None:
    _non_utf8(tmp_path)
    with pytest.raises(InvalidRequest, match="UTF-8"):
        scan(tmp_path / os.fsdecode(b"bad\xff.bin"))


def test_too_many_files_stop_the_walk_early(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "MAX_FILES", 20)
    looked: list[Path] = []
    real = scanning._file
    monkeypatch.setattr(scanning, "_file", lambda *args: looked.append(args[1]) or real(*args))
    for number in range(100):
        (folder / f"{number:03}").touch()
    with pytest.raises(InvalidRequest) as caught:
        scan(folder)
    assert caught.value.code == "too_many_files"
    assert len(looked) == 21


def _refused(*_args: object) -> bool:
    return False


def _gone(*_args: object) -> None:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(
    ("target", "name", "stub"),
    [("os", "access", _refused), ("os", "scandir", _gone), ("Path", "lstat", _gone)],
)
def test_what_cannot_be_read_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, target: str, name: str, stub: object
) -> None:
    """By stubs, since the tests may run as root, to whom all files open."""
    with monkeypatch.context() as patched:
        patched.setattr(getattr(scanning, target), name, stub)
        with pytest.raises(ModelVaultError) as caught:
            scan(folder)
    assert isinstance(caught.value, InvalidRequest)
    assert caught.value.code == "unreadable"
    assert str(folder) in caught.value.message
