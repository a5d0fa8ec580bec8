"""Sealing keys under the root key: AES-256-GCM, each entry bound to its place.

A sealed entry is IV (12 random bytes) || ciphertext || tag (16). The associated data says what
the entry is, so that two entries that change places don't open.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from modelvault.adapters.keys_local.document import Keyring
from modelvault.crypto import derive
from modelvault.crypto.secret import Secret
from modelvault.errors import AuthenticationError, IntegrityError

_IV = 12
_TAG = 16
_CHECK = b"check"
_DOCUMENT = b"document\0"


def seal(key: Secret, plain: Secret, bound_to: bytes) -> bytes:
    """IV || ciphertext || tag under a fresh random IV (NIST SP 800-38D, section 8.2.2)."""
    iv = os.urandom(_IV)
    return iv + AESGCM(key.reveal()).encrypt(iv, plain.reveal(), bound_to)


def unseal(key: Secret, sealed: bytes, bound_to: bytes) -> Secret:
    """What was sealed. Raises InvalidTag for another key, another place or altered bytes."""
    plain = bytearray(max(0, len(sealed) - _IV - _TAG))
    try:
        AESGCM(key.reveal()).decrypt_into(sealed[:_IV], sealed[_IV:], bound_to, plain)
    except ValueError:  # too short to hold a tag
        raise InvalidTag from None
    return Secret(plain)


class Seals:
    """The three keys that come from the root key; `wipe` forgets them.

    They live as long as the keyring is open, since the file is read and written all that time.
    What they seal is opened for one use and wiped: it costs microseconds, so nothing is cached.
    """

    def __init__(self, root: Secret) -> None:
        """Derive from `root` (32 bytes), which stays the caller's to wipe."""
        self._kek = derive.expand(root, derive.ROOT_KEK)
        self._signing = derive.expand(root, derive.ROOT_SIGNING)
        self._check = derive.expand(root, derive.ROOT_CHECK)

    def wipe(self) -> None:
        """Forget the keys. Twice is fine."""
        for key in (self._kek, self._signing, self._check):
            key.wipe()

    def seal_kek(self, name: str, version: int, kek: Secret) -> bytes:
        """A KEK's version, sealed."""
        return seal(self._kek, kek, _place("kek", name, version))

    def open_kek(self, name: str, version: int, sealed: bytes) -> Secret:
        """The KEK. IntegrityError (`keyring_altered`)."""
        return _open(self._kek, sealed, _place("kek", name, version))

    def seal_signing(self, purpose: str, version: int, public: bytes, private: Secret) -> bytes:
        """A signing key, sealed and bound to its public half."""
        return seal(self._signing, private, _place(purpose, public.hex(), version))

    def open_signing(self, purpose: str, version: int, public: bytes, sealed: bytes) -> Secret:
        """The private key's 32 bytes. IntegrityError (`keyring_altered`)."""
        return _open(self._signing, sealed, _place(purpose, public.hex(), version))

    def check(self) -> bytes:
        """A value that opens under this root key alone."""
        return self._empty(_CHECK)

    def tag(self, keyring: Keyring) -> bytes:
        """A tag over the whole document."""
        return self._empty(_DOCUMENT + keyring.tagged_bytes())

    def verify(self, keyring: Keyring, where: str) -> None:
        """Check the root key first, then that nobody else wrote the document.

        Raises AuthenticationError (`wrong_root_key`), IntegrityError (`keyring_altered`).
        """
        try:
            unseal(self._check, keyring.check, _CHECK)
        except InvalidTag:
            raise AuthenticationError(
                "wrong_root_key",
                f"this passphrase or root key doesn't open the keyring {where}",
                "check the passphrase, or that the root key is this vault's; nothing was changed",
            ) from None
        _open(self._check, keyring.tag, _DOCUMENT + keyring.tagged_bytes())

    def _empty(self, bound_to: bytes) -> bytes:
        return seal(self._check, Secret(bytearray()), bound_to)


def _open(key: Secret, sealed: bytes, bound_to: bytes) -> Secret:
    try:
        return unseal(key, sealed, bound_to)
    except InvalidTag:
        raise IntegrityError(
            "keyring_altered",
            "the keyring file was changed by something else than modelvault",
            "restore it from a backup; none of it was used",
        ) from None


def _place(kind: str, name: str, version: int) -> bytes:
    return f"{kind}\0{name}\0{version}".encode()
