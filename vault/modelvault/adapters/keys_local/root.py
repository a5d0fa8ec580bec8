"""Where the root key comes from: a key file, a passphrase, or the operating system's keyring."""

from __future__ import annotations

import base64
import binascii
import errno
import os
import stat
import unicodedata
from pathlib import Path
from types import ModuleType
from typing import Self

import msgspec
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from modelvault.adapters.keys_local.document import Argon2, FileRoot, OsRoot, PassphraseRoot, Root
from modelvault.crypto.secret import Secret
from modelvault.errors import AuthenticationError, Conflict, InvalidRequest, Unavailable

ROOT_BYTES = 32
SALT_BYTES = 16
_ACCOUNT = "root-key"


class KeyFile(msgspec.Struct, frozen=True):
    """32 random bytes in a file of mode 0600 that nobody but its owner may read."""

    path: Path

    def create(self) -> tuple[Secret, Root]:
        """Make the file. Conflict (`root_key_exists`), Unavailable (`root_key_unavailable`)."""
        root = Secret.random(ROOT_BYTES)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write_new(self.path, root)
        except FileExistsError:
            root.wipe()
            raise Conflict(
                "root_key_exists",
                f"there is a root key at {self.path} already",
                "it may be another vault's: name another file",
            ) from None
        except OSError as error:
            root.wipe()
            raise self._unavailable(error) from None
        return root, FileRoot()

    def open(self, root: Root) -> Secret:
        """The root key. The caller wipes it.

        Raises InvalidRequest (`wrong_root_source`, `root_key_exposed`), Unavailable
        (`root_key_unavailable`), AuthenticationError (`wrong_root_key`) for a file of another
        length.
        """
        _check_kind(root, FileRoot)
        buffer = bytearray(ROOT_BYTES + 1)
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                mode = os.fstat(descriptor).st_mode
                length = os.readv(descriptor, [buffer]) if stat.S_ISREG(mode) else 0
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._unavailable(error) from None
        key = Secret(buffer[:ROOT_BYTES])
        buffer[:] = bytes(len(buffer))
        if stat.S_IMODE(mode) & 0o077:
            key.wipe()
            raise InvalidRequest(
                "root_key_exposed",
                f"others than its owner may use the root key {self.path}",
                f"chmod 600 {self.path}; if others had access, make a new vault",
            )
        if length != ROOT_BYTES:
            key.wipe()
            raise AuthenticationError(
                "wrong_root_key",
                f"{self.path} isn't a root key: that is a file of {ROOT_BYTES} bytes",
                "restore the file from a backup",
            )
        return key

    def _unavailable(self, error: OSError) -> Unavailable:
        return Unavailable(
            "root_key_unavailable",
            f"can't use the root key file {self.path}: {os.strerror(error.errno or 0)}",
            "mount or restore the file, and check the permissions of the folders above it; a new "
            "one is made below XDG_CONFIG_HOME",
        )


class Passphrase(msgspec.Struct, frozen=True):
    """A passphrase, stretched by Argon2id; `cost` is for new keyrings, old ones keep theirs."""

    text: Secret
    cost: Argon2 = Argon2()

    @classmethod
    def of(cls, text: str, cost: Argon2 = Argon2()) -> Self:  # noqa: B008 - a frozen value
        """Of what a person typed, in Unicode's NFC form: keyboards and systems differ in that.

        Raises InvalidRequest (`bad_passphrase`) for an empty one, or one that isn't Unicode.
        """
        try:
            data = bytearray(unicodedata.normalize("NFC", text).encode("utf-8"))
        except UnicodeEncodeError:
            data = bytearray()
        if not data:
            raise InvalidRequest(
                "bad_passphrase",
                "the passphrase is empty or not Unicode text",
                "give one: five or six words that nobody would guess",
            )
        return cls(Secret(data), cost)

    def create(self) -> tuple[Secret, Root]:
        """Derive a root key under a fresh salt."""
        root = PassphraseRoot(os.urandom(SALT_BYTES), self.cost)
        return self.open(root), root

    def open(self, root: Root) -> Secret:
        """The root key, after some tenths of a second. The caller wipes it.

        Raises InvalidRequest (`wrong_root_source`), Unavailable (`insufficient_memory`).
        """
        if not isinstance(root, PassphraseRoot):
            raise _wrong_kind(root)
        derived = bytearray(ROOT_BYTES)
        try:
            Argon2id(
                salt=root.salt,
                length=ROOT_BYTES,
                iterations=root.cost.iterations,
                lanes=root.cost.lanes,
                memory_cost=root.cost.memory_kib,
            ).derive_into(self.text.reveal(), derived)  # type: ignore[arg-type] # any buffer will do
        except MemoryError:
            raise Unavailable(
                "insufficient_memory",
                f"checking the passphrase needs {root.cost.memory_kib >> 10} MiB of memory",
                "free some memory and try again",
            ) from None
        return Secret(derived)


class OsKeyring(msgspec.Struct, frozen=True):
    """The root key as an entry `service` of the desktop's or system's own keyring."""

    service: str

    def create(self) -> tuple[Secret, Root]:
        """Make the entry. Conflict (`root_key_exists`), Unavailable (`no_os_keyring`)."""
        if self._get() is not None:
            raise Conflict(
                "root_key_exists",
                f"the system's keyring has an entry {self.service!r} already",
                "it may be another vault's: remove it there, or use a key file",
            )
        root = Secret.random(ROOT_BYTES)
        self._set(base64.b64encode(root.reveal()).decode("ascii"))
        return root, OsRoot()

    def open(self, root: Root) -> Secret:
        """The root key. The caller wipes it.

        Raises InvalidRequest (`wrong_root_source`), Unavailable (`no_os_keyring`,
        `root_key_unavailable`), AuthenticationError (`wrong_root_key`).
        """
        _check_kind(root, OsRoot)
        text = self._get()
        if text is None:
            raise Unavailable(
                "root_key_unavailable",
                f"the system's keyring has no entry {self.service!r}",
                "unlock the keyring, log in as the user who made the vault, or restore the entry",
            )
        try:
            data = bytearray(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError):
            data = bytearray()
        if len(data) != ROOT_BYTES:
            raise AuthenticationError(
                "wrong_root_key",
                f"the entry {self.service!r} of the system's keyring isn't a root key",
                "restore the entry from a backup",
            )
        return Secret(data)

    def _get(self) -> str | None:
        keyring, refused = _keyring()
        try:
            found: str | None = keyring.get_password(self.service, _ACCOUNT)
        except refused:
            raise _no_os_keyring() from None
        return found

    def _set(self, text: str) -> None:
        keyring, refused = _keyring()
        try:
            keyring.set_password(self.service, _ACCOUNT, text)
        except refused:
            raise _no_os_keyring() from None


RootSource = KeyFile | Passphrase | OsKeyring


def _keyring() -> tuple[ModuleType, tuple[type[Exception], ...]]:
    """The `keyring` package, and what its backends raise when they have no answer."""
    try:
        import keyring
        import keyring.errors
    except ImportError:
        raise Unavailable(
            "no_os_keyring",
            "the `keyring` package isn't installed",
            'pip install "encrypted-model-vault[keyring]", or use a key file or a passphrase',
        ) from None
    return keyring, (keyring.errors.KeyringError, RuntimeError, OSError)


def _no_os_keyring() -> Unavailable:
    return Unavailable(
        "no_os_keyring",
        "the system's keyring doesn't answer, or there is none",
        "unlock it, or use a key file or a passphrase",
    )


def _check_kind(root: Root, wanted: type[Root]) -> None:
    if not isinstance(root, wanted):
        raise _wrong_kind(root)


def _wrong_kind(root: Root) -> InvalidRequest:
    kinds = {FileRoot: "a key file", PassphraseRoot: "a passphrase", OsRoot: "the system's keyring"}
    return InvalidRequest(
        "wrong_root_source",
        f"this keyring is under {kinds[type(root)]}",
        "open it with that: vault.json says where it is",
    )


def _write_new(path: Path, key: Secret) -> None:
    """A private file with `key`, durable; none at all when it raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        os.fchmod(descriptor, 0o600)  # a umask may have taken bits away
        if os.write(descriptor, key.reveal()) != len(key):
            raise OSError(errno.ENOSPC, "cut short")
        os.fsync(descriptor)
        _sync(path.parent)
    except BaseException:
        path.unlink()
        raise
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
