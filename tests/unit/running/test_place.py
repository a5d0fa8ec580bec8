from __future__ import annotations

import errno
import stat
import tempfile
from pathlib import Path

import pytest

from modelvault.errors import Unavailable
from modelvault.running import place


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(place, "_SHARED_MEMORY", str(tmp_path / "nowhere"))
    monkeypatch.setattr(place, "_SPARE", ())
    return tmp_path


def test_it_is_private_and_goes() -> None:
    made = place.make()
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o700
    (made.path / "m").mkdir()
    made.remove()
    made.remove()
    assert not made.path.exists()


def test_no_link_leads_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is mounted is found again by its name, which the system tells without links."""
    (folder / "real").mkdir()
    (folder / "link").symlink_to(folder / "real")
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "link"))
    assert place.make().path.parent == folder / "real"
    monkeypatch.setattr(place, "_made", lambda _parent: (_ for _ in ()).throw(OSError))
    monkeypatch.setattr(place, "_SPARE", (str(folder / "empty"),))
    (folder / "void").mkdir()
    (folder / "empty").symlink_to(folder / "void")
    assert place.make().path == folder / "void"


def test_what_nobody_holds_is_removed_and_nothing_else(folder: Path) -> None:
    living = place.make()
    left = folder / f"{place.PREFIX}left"
    (left / "m").mkdir(parents=True)
    (left / "m" / "config.json").symlink_to("/proc/4711/fd/7")
    (folder / "other").mkdir()
    link = folder / f"{place.PREFIX}link"
    link.symlink_to(folder / "other")
    (folder / f"{place.PREFIX}file").write_text("x")
    made = place.make()
    assert {path.name for path in folder.iterdir()} == {
        made.path.name, living.path.name, "other", link.name, f"{place.PREFIX}file",
    }  # fmt: skip


def test_one_that_another_run_removed_meanwhile_is_made_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, taken = place.fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if not taken:
            taken.append(*folder.iterdir())
            taken[0].rmdir()
        lock(descriptor, operation)

    monkeypatch.setattr(place.fcntl, "flock", flock)
    made = place.make()
    assert made.path.is_dir()
    assert made.path != taken[0]


def full(*_arguments: object, **_settings: object) -> str:
    raise OSError(errno.EROFS, "Read-only file system")


def test_where_nothing_can_be_written_an_empty_folder_is_covered(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(Unavailable) as caught:
        place.make()
    assert caught.value.code == "no_ram_folder"
    assert "TMPDIR" in caught.value.hint
    for name in ("used", "empty"):
        (folder / name).mkdir()
    (folder / "used/file").write_text("x")
    spare = (str(folder / "missing"), str(folder / "used"), str(folder / "empty"))
    monkeypatch.setattr(place, "_SPARE", spare)
    made = place.make()
    assert (made.path, made.ours) == (folder / "empty", False)
    made.remove()
    assert made.path.is_dir()
