"""KeyService, KeyAdmin and Signer over one file."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modelvault.adapters.keys_local import document, wrapping
from modelvault.adapters.keys_local.document import Kek, KekVersion, Keyring, SigningKey
from modelvault.adapters.keys_local.file import KeyringFile
from modelvault.adapters.keys_local.root import RootSource
from modelvault.adapters.keys_local.sealing import Seals
from modelvault.crypto import dsse
from modelvault.crypto.derive import KEY_BYTES
from modelvault.crypto.dsse import Signature
from modelvault.crypto.secret import Secret
from modelvault.errors import Conflict, InvalidRequest, NotFound
from modelvault.ports.keys import SigningPurpose, WrappedKey

MAX_BATCH = 200


class LocalKeyring:
    """All three key ports, for one process or several on one machine; thread-safe.

    Whoever has the file and the root key has every key in it: one identity, not three as with a
    real key service. Besides what the ports say, every method may raise Unavailable
    (`keyring_unreadable`, `keyring_unwritable`), IntegrityError (`bad_keyring`,
    `keyring_altered`), AuthenticationError (`wrong_root_key`, when a keyring under another root
    key has taken the place of ours) and InvalidRequest (`wiped`, after `close`).
    """

    def __init__(self, path: Path, source: RootSource) -> None:
        """Open the keyring at `path`. Raises what `source.open` raises, and as said above."""
        self._file = KeyringFile(path)
        self._lock = threading.Lock()
        self._descriptor = self._file.open()
        try:
            keyring = self._parse(self._descriptor)
            with source.open(keyring.root) as root:
                self._seals = Seals(root)
            self._seals.verify(keyring, str(path))
        except BaseException:
            os.close(self._descriptor)
            raise
        self._keyring = keyring

    @classmethod
    def make(cls, path: Path, source: RootSource) -> None:
        """Make a keyring under a new root key, with a signing key for each purpose and no KEK.

        Raises Conflict (`keyring_exists`), and what `source.create` raises.
        """
        file = KeyringFile(path)
        with file.changing():
            if path.exists():
                raise Conflict("keyring_exists", f"there is a keyring at {path} already", "use it")
            key, root = source.create()
            with key:
                seals = Seals(key)
            keys: dict[SigningPurpose, tuple[SigningKey, ...]] = {
                purpose: (_signing_key(seals, purpose, 1),) for purpose in document.PURPOSES
            }
            keyring = Keyring(root=root, check=seals.check(), keks={}, signing=keys)
            file.replace(_tagged(seals, keyring).to_bytes())
            seals.wipe()

    def close(self) -> None:
        """Wipe the keys. Twice is fine."""
        with self._lock:
            self._seals.wipe()
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<LocalKeyring {self._file.path}>"

    # KeyService

    def data_key(self, key: str, context: bytes) -> tuple[Secret, WrappedKey]:
        """See `KeyService`. InvalidRequest (`bad_context`) unless `context` is 32 bytes."""
        kek = _kek(self._current(), key)
        dek = Secret.random(KEY_BYTES)
        return dek, wrapping.wrap(self._seals, key, kek, dek, context)

    def wrap(self, key: str, dek: Secret, context: bytes) -> WrappedKey:
        """See `KeyService`. InvalidRequest (`bad_context`) unless `context` is 32 bytes."""
        if len(dek) != KEY_BYTES:
            raise InvalidRequest("bad_dek", f"a DEK is {KEY_BYTES} bytes", "ask who sent it")
        return wrapping.wrap(self._seals, key, _kek(self._current(), key), dek, context)

    def unwrap(self, key: str, wrapped: WrappedKey, context: bytes) -> Secret:
        """See `KeyService`."""
        return wrapping.unwrap(self._seals, key, _kek(self._current(), key), wrapped, context)

    # KeyAdmin

    def create(self, key: str) -> None:
        """See `KeyAdmin`. InvalidRequest (`bad_key_name`) for what `derive.kek_name` can't make."""
        if not document.KEK_NAME.fullmatch(key):
            raise InvalidRequest(
                "bad_key_name", f"not a KEK's name: {key[:80]!r}", "take it from derive.kek_name"
            )

        def add(keyring: Keyring) -> Keyring:
            if key in keyring.keks:
                raise Conflict("kek_exists", f"there is a KEK {key} already", "use it")
            return _with_kek(keyring, key, Kek((self._new_version(key, 1),)))

        self._change(add)

    def rotate(self, key: str) -> int:
        """See `KeyAdmin`."""

        def add(keyring: Keyring) -> Keyring:
            kek = _kek(keyring, key)
            added = self._new_version(key, kek.newest + 1)
            return _with_kek(keyring, key, Kek((*kek.versions, added)))

        return self._change(add).keks[key].newest

    def versions(self, key: str) -> tuple[int, int]:
        """See `KeyAdmin`."""
        kek = _kek(self._current(), key)
        return kek.floor, kek.newest

    def rewrap(self, key: str, batch: list[tuple[WrappedKey, bytes]]) -> list[WrappedKey]:
        """See `KeyAdmin`. InvalidRequest (`batch_too_large`) for more than 200."""
        if len(batch) > MAX_BATCH:
            raise InvalidRequest(
                "batch_too_large",
                f"{len(batch)} keys to rewrap; at most {MAX_BATCH} at once",
                "rewrap them in several batches",
            )
        kek = _kek(self._current(), key)
        rewrapped = []
        for wrapped, context in batch:
            with wrapping.unwrap(self._seals, key, kek, wrapped, context) as dek:
                rewrapped.append(wrapping.wrap(self._seals, key, kek, dek, context))
        return rewrapped

    def retire(self, key: str, below: int) -> None:
        """See `KeyAdmin`. InvalidRequest (`bad_version`) when no version would be left.

        The file is written anew without the old versions' bytes. What the disk still holds of the
        file before, as of any file that was replaced, is sealed under the root key.
        """

        def drop(keyring: Keyring) -> Keyring:
            kek = _kek(keyring, key)
            if below > kek.newest:
                raise InvalidRequest(
                    "bad_version",
                    f"can't retire below {below}: the newest version is {kek.newest}",
                    "rotate first",
                )
            kept = tuple(entry for entry in kek.versions if entry.version >= below)
            return _with_kek(keyring, key, Kek(kept))

        self._change(drop)

    # Signer

    def sign(self, purpose: SigningPurpose, message: bytes) -> Signature:
        """See `Signer`."""
        return self._signature(purpose, self._current().signing[purpose][-1], message)

    def sign_with(self, purpose: SigningPurpose, public_key: bytes, message: bytes) -> Signature:
        """See `SigningAdmin`."""
        for entry in self._current().signing[purpose]:
            if entry.public_key == public_key:
                return self._signature(purpose, entry, message)
        raise NotFound("no_signing_key", f"no {purpose} key is that one", "see the trust file")

    def public_key(self, purpose: SigningPurpose) -> bytes:
        """See `Signer`."""
        return self._current().signing[purpose][-1].public_key

    def public_keys(self, purpose: SigningPurpose) -> tuple[bytes, ...]:
        """The raw public keys that the purpose has had, oldest first; the last one signs."""
        return tuple(entry.public_key for entry in self._current().signing[purpose])

    def rotate_signing(self, purpose: SigningPurpose) -> bytes:
        """See `SigningAdmin`."""

        def add(keyring: Keyring) -> Keyring:
            old = keyring.signing[purpose]
            added = _signing_key(self._seals, purpose, old[-1].version + 1)
            signing = {**keyring.signing, purpose: (*old, added)}
            return msgspec.structs.replace(keyring, signing=signing)

        return self._change(add).signing[purpose][-1].public_key

    # Inside

    def _signature(self, purpose: SigningPurpose, entry: SigningKey, message: bytes) -> Signature:
        place = purpose, entry.version, entry.public_key
        with self._seals.open_signing(*place, entry.sealed) as private:
            signature = Ed25519PrivateKey.from_private_bytes(private.reveal()).sign(message)
        return Signature(dsse.keyid(entry.public_key), signature)

    def _new_version(self, key: str, version: int) -> KekVersion:
        with Secret.random(KEY_BYTES) as kek:
            return KekVersion(version, self._seals.seal_kek(key, version, kek))

    def _change(self, step: Callable[[Keyring], Keyring]) -> Keyring:
        """Replace the keyring by what `step` makes of its newest state; both in one lock."""
        with self._file.changing():
            keyring = self._current()
            changed = step(keyring)
            if changed != keyring:
                changed = _tagged(self._seals, changed)
                self._file.replace(changed.to_bytes())
            return changed

    def _current(self) -> Keyring:
        """The keyring as the file has it now: another process may have changed it."""
        with self._lock:
            if self._descriptor < 0:
                raise InvalidRequest("wiped", "this keyring is closed", "open it again")
            if not self._file.is_still(self._descriptor):
                self._reload()
            return self._keyring

    def _reload(self) -> None:
        descriptor = self._file.open()
        try:
            keyring = self._parse(descriptor)
            self._seals.verify(keyring, str(self._file.path))
        except BaseException:
            os.close(descriptor)
            raise
        os.close(self._descriptor)
        self._descriptor, self._keyring = descriptor, keyring

    def _parse(self, descriptor: int) -> Keyring:
        return document.parse(self._file.read(descriptor), str(self._file.path))


def _kek(keyring: Keyring, key: str) -> Kek:
    found = keyring.keks.get(key)
    if found is None:
        raise NotFound("no_kek", f"there is no KEK {key[:80]!r}", "create the model first")
    return found


def _with_kek(keyring: Keyring, key: str, kek: Kek) -> Keyring:
    return msgspec.structs.replace(keyring, keks={**keyring.keks, key: kek})


def _signing_key(seals: Seals, purpose: SigningPurpose, version: int) -> SigningKey:
    with Secret.random(KEY_BYTES) as private:
        key = Ed25519PrivateKey.from_private_bytes(private.reveal())
        public = key.public_key().public_bytes_raw()
        return SigningKey(version, public, seals.seal_signing(purpose, version, public, private))


def _tagged(seals: Seals, keyring: Keyring) -> Keyring:
    return msgspec.structs.replace(keyring, tag=seals.tag(keyring))
