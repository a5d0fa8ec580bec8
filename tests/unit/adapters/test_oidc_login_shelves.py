from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import keyring
import keyring.backend
import keyring.backends.fail
import keyring.errors
import pytest

from modelvault.adapters.oidc_login import FileShelf, KeyringShelf, best_shelf, shelves
from modelvault.errors import Unavailable
from modelvault.ports.login import Granted, LoginShelf
from modelvault.settings import Login

ONE = Granted(token="t1", refresh_token="r1", expires_at=1)
TWO = Granted(token="t2", refresh_token=None, expires_at=2)


class MemoryKeyring(keyring.backend.KeyringBackend):
    """A keyring that can be `locked`."""

    priority = 1

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], str] = {}
        self.locked = False

    def _check(self) -> None:
        if self.locked:
            raise keyring.errors.KeyringLocked("locked")

    def get_password(self, service: str, username: str) -> str | None:
        self._check()
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._check()
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        self._check()
        if self.entries.pop((service, username), None) is None:
            raise keyring.errors.PasswordDeleteError("no such entry")


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> MemoryKeyring:
    made = MemoryKeyring()
    monkeypatch.setattr(keyring, "get_keyring", lambda: made)
    for name in ("get_password", "set_password", "delete_password"):
        monkeypatch.setattr(keyring, name, getattr(made, name))
    return made


@pytest.fixture
def file(tmp_path: Path) -> FileShelf:
    return FileShelf(tmp_path / "state" / "logins", "name")


@pytest.fixture(params=["file", "keyring"])
def shelf(request: pytest.FixtureRequest, file: FileShelf) -> LoginShelf:
    if request.param == "file":
        return file
    request.getfixturevalue("system")
    return KeyringShelf(keyring, "name", file)


def test_kept_replaced_and_removed(shelf: LoginShelf) -> None:
    assert shelf.get() is None
    shelf.remove()
    for granted in (ONE, TWO):
        with shelf.locked():
            shelf.put(granted)
        assert shelf.get() == granted
    shelf.remove()
    shelf.remove()
    assert shelf.get() is None


def test_the_file_is_the_users_alone(file: FileShelf, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        file.put(ONE)
    finally:
        os.umask(before)
    folder = tmp_path / "state" / "logins"
    assert [path.name for path in folder.iterdir()] == ["name.json"]
    assert stat.S_IMODE((folder / "name.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_may_use_counts_as_none(
    file: FileShelf, tmp_path: Path, mode: int
) -> None:
    file.put(ONE)
    (tmp_path / "state" / "logins" / "name.json").chmod(mode)
    assert file.get() is None
    file.put(TWO)
    assert file.get() == TWO


def test_what_else_counts_as_none(file: FileShelf, tmp_path: Path) -> None:
    file.put(ONE)
    path = tmp_path / "state" / "logins" / "name.json"
    for data in (b"", b"{}", b"[]", b"\xff", b'{"token": 7}', b"x" * 100_000):
        path.write_bytes(data)
        assert file.get() is None
    other = path.with_name("other.json")
    file.put(ONE)
    path.rename(other)
    path.symlink_to(other)
    assert file.get() is None
    file.put(TWO)  # the link is replaced, not followed
    assert (file.get(), other.read_bytes() != path.read_bytes()) == (TWO, True)
    path.unlink()
    os.mkfifo(path, 0o600)
    assert file.get() is None


def test_a_draft_that_was_left_is_no_obstacle(file: FileShelf, tmp_path: Path) -> None:
    file.put(ONE)
    (tmp_path / "state" / "logins" / "name.new").write_text("left behind")
    file.put(TWO)
    assert file.get() == TWO


def test_a_folder_that_cant_be_used(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    shelf = FileShelf(tmp_path / "state", "name")
    for use in (lambda: shelf.put(ONE), lambda: shelf.locked().__enter__(), shelf.remove):
        with pytest.raises(Unavailable) as caught:
            use()
        assert caught.value.code == "cant_keep_login"
        assert "XDG_STATE_HOME" in caught.value.hint
    assert shelf.get() is None


def test_one_at_a_time(shelf: LoginShelf) -> None:
    order: list[str] = []
    inside = threading.Event()

    def second() -> None:
        inside.wait(10)
        with shelf.locked():
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with shelf.locked():
        inside.set()
        thread.join(0.05)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_the_keyring_holds_it_and_no_file(
    system: MemoryKeyring, file: FileShelf, tmp_path: Path
) -> None:
    file.put(TWO)
    shelf = KeyringShelf(keyring, "name", file)
    assert shelf.get() == TWO  # from before there was a keyring
    shelf.put(ONE)
    assert list(system.entries) == [(shelves.SERVICE, "name")]
    assert not (tmp_path / "state" / "logins" / "name.json").exists()


def test_a_keyring_that_locks_itself(system: MemoryKeyring, file: FileShelf) -> None:
    shelf = KeyringShelf(keyring, "name", file)
    shelf.put(ONE)
    system.locked = True
    assert shelf.get() is None
    shelf.put(TWO)
    assert shelf.get() == file.get() == TWO
    shelf.remove()
    assert file.get() is None


def test_which_is_taken(
    system: MemoryKeyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = Login(issuer="https://idp.example", client_id="c")
    assert isinstance(best_shelf(login, tmp_path), KeyringShelf)
    monkeypatch.setattr(keyring, "get_keyring", keyring.backends.fail.Keyring)
    assert isinstance(best_shelf(login, tmp_path), FileShelf)
    monkeypatch.setitem(__import__("sys").modules, "keyring", None)
    assert isinstance(best_shelf(login, tmp_path), FileShelf)


def test_each_issuer_and_client_has_its_own(tmp_path: Path) -> None:
    names = {
        shelves.name_of(Login(issuer=issuer, client_id=client))
        for issuer in ("https://a.example", "https://b.example")
        for client in ("c", "d")
    }
    assert len(names) == 4
