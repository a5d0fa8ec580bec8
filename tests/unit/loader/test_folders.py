"""Files of a model in folders that somebody else keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelvault.access import Obligations
from modelvault.errors import AccessDenied
from modelvault.loader.ramdir import Fill, RamFolder
from support.loading import Version

FILES = {"a": b"first", "b/c": b"second" * 500, "empty": b""}


class Kept:
    """A folder that is a dictionary."""

    def __init__(self, *, isolated: bool) -> None:
        self.isolated = isolated
        self.root = Path("/nowhere")
        self.files: dict[str, bytes] = {}

    def __contains__(self, path: str) -> bool:
        return path in self.files

    def add(self, path: str, size: int, fill: Fill) -> None:
        data = bytearray(size)
        with memoryview(data) as view:
            fill(view)
        self.files[path] = bytes(data)


@pytest.mark.parametrize("isolated", [False, True])
def test_it_is_filled_once_and_told_of(isolated: bool) -> None:
    version, folder, told = Version(FILES), Kept(isolated=isolated), []
    with version.model() as model:
        model.fill(folder, "a", tell=lambda *numbers: told.append(numbers))
        assert told == [(5, 5)]
        model.fill(folder)
        read = version.bytes_read
        model.fill(folder, tell=lambda *numbers: told.append(numbers))
        assert version.bytes_read == read
        assert told == [(5, 5)]
    assert folder.files == FILES


def test_isolated_memory_is_refused_before_anything_is_read() -> None:
    version, shown = Version(FILES), Kept(isolated=False)
    with version.model(obligations=Obligations(isolated_memory=True)) as model:
        for refused in (model.path, lambda: model.fill(shown)):
            with pytest.raises(AccessDenied) as caught:
                refused()
            assert caught.value.code == "isolated_memory"
            assert "modelvault run" in caught.value.hint
        assert version.bytes_read == 0
        assert shown.files == {}
        hidden = Kept(isolated=True)
        model.fill(hidden)
        assert hidden.files == FILES


@pytest.mark.parametrize("isolated", [False, True])
def test_what_is_asked_later_is_refused_where_it_comes_too_late(isolated: bool) -> None:
    later = Obligations(isolated_memory=True)
    with Version(FILES).model() as model:
        model.fill(Kept(isolated=isolated), "a")
        if isolated:
            model.heed(later)
            assert model.obligations == later
            return
        with pytest.raises(AccessDenied):
            model.heed(later)
        assert not model.obligations.isolated_memory


def test_links_go_where_they_are_told(tmp_path: Path) -> None:
    root = tmp_path / "m"
    root.mkdir()
    folder = RamFolder(root)
    with Version(FILES).model() as model:
        model.fill(folder)
        folder.lock()
        assert (root / "b/c").read_bytes() == FILES["b/c"]
        opened = (root / "a").open("rb")
        folder.hide()
        assert not root.exists()
        with opened:
            assert opened.read() == b"first"
        folder.close()
