"""Where a login is kept between commands: the system's keyring, or a file of mode 0600."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

import msgspec

from modelvault.errors import Unavailable
from modelvault.ports.login import Granted, LoginShelf
from modelvault.settings import Login

MAX_BYTES = 64 << 10
SERVICE = "modelvault login"
_PRIVATE = stat.S_IRWXG | stat.S_IRWXO


def name_of(login: Login) -> str:
    """The name a login is kept under: one for each issuer and client."""
    return hashlib.sha256(f"{login.issuer}\n{login.client_id}".encode()).hexdigest()[:32]


class FileShelf:
    """LoginShelf: a file in `folder`, which is made with mode 0700."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._path = folder / f"{name}.json"
        self._lock = folder / f"{name}.lock"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """See ports.login.LoginShelf."""
        with _writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def get(self) -> Granted | None:
        """What is kept; a file that others may read, or that isn't ours, counts as none."""
        try:
            descriptor = os.open(
                self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            )
        except OSError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            ours = found.st_uid == os.geteuid() and not found.st_mode & _PRIVATE
            return _decoded(file.read(MAX_BYTES)) if ours and stat.S_ISREG(found.st_mode) else None

    def put(self, granted: Granted) -> None:
        """See ports.login.LoginShelf. The file is replaced whole."""
        draft = self._path.with_suffix(".new")
        with _writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
                file.write(msgspec.json.encode(granted))
            draft.replace(self._path)

    def remove(self) -> None:
        """See ports.login.LoginShelf."""
        with _writing(self._folder):
            self._path.unlink(missing_ok=True)


class KeyringShelf:
    """LoginShelf: an entry of the system's keyring; `beside` gives the lock, and keeps the login
    when the keyring doesn't take it."""

    def __init__(self, keyring: ModuleType, name: str, beside: FileShelf) -> None:
        import keyring.errors

        self._keyring = keyring
        self._refused = (keyring.errors.KeyringError, RuntimeError, OSError)
        self._name = name
        self._beside = beside

    @contextmanager
    def locked(self) -> Iterator[None]:
        """See ports.login.LoginShelf."""
        with self._beside.locked():
            yield

    def get(self) -> Granted | None:
        """See ports.login.LoginShelf."""
        try:
            text = self._keyring.get_password(SERVICE, self._name)
        except self._refused:
            text = None
        found = _decoded(text.encode()) if isinstance(text, str) else None
        return found or self._beside.get()

    def put(self, granted: Granted) -> None:
        """See ports.login.LoginShelf."""
        if self._stored(granted):
            self._beside.remove()
        else:
            self._forget()  # or an old one there would win over the new one in the file
            self._beside.put(granted)

    def remove(self) -> None:
        """See ports.login.LoginShelf."""
        self._forget()
        self._beside.remove()

    def _stored(self, granted: Granted) -> bool:
        try:
            self._keyring.set_password(
                SERVICE, self._name, msgspec.json.encode(granted).decode("ascii")
            )
        except self._refused:
            return False
        return True

    def _forget(self) -> None:
        with suppress(*self._refused):
            self._keyring.delete_password(SERVICE, self._name)


def best_shelf(login: Login, state_home: Path) -> LoginShelf:
    """The system's keyring where there is one, else a file below `state_home`."""
    name = name_of(login)
    file = FileShelf(state_home / "logins", name)
    try:
        import keyring
        import keyring.backends.fail
    except ImportError:
        return file
    if isinstance(keyring.get_keyring(), keyring.backends.fail.Keyring):
        return file
    return KeyringShelf(keyring, name, file)


def _decoded(data: bytes) -> Granted | None:
    try:
        return msgspec.json.decode(data, type=Granted)
    except msgspec.DecodeError:
        return None


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            "cant_keep_login",
            f"can't keep the login in {folder}: {os.strerror(error.errno or 0)}",
            "name a folder of your own with XDG_STATE_HOME",
        ) from None
