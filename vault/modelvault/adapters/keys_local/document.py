"""What `keyring.json` says: sealed keys, and how the root key is come by. No key, no I/O.

All that is secret in it is sealed (`sealing`); a tag over the whole document, under the root key,
shows any change that another hand made. An older file as a whole is not noticed: who can put it
back owns the home, and what a retired KEK version protected was rewrapped before.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from modelvault import canonical
from modelvault.errors import IntegrityError
from modelvault.manifest import Positive
from modelvault.ports.keys import SigningPurpose

MAX_BYTES = 64 << 20
MAX_SEALED = 256
PURPOSES: tuple[SigningPurpose, ...] = ("manifest", "record", "log", "bundle", "token")

KEK_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}", re.ASCII)

KekName = Annotated[str, Meta(pattern=rf"^{KEK_NAME.pattern}\Z")]
Sealed = Annotated[bytes, Meta(min_length=28, max_length=MAX_SEALED)]


class Argon2(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Argon2id's cost (RFC 9106). The defaults are its second recommended option.

    The limits keep a file that somebody else wrote from asking for all memory or for hours.
    """

    iterations: Annotated[int, Meta(ge=1, le=16)] = 3
    memory_kib: Annotated[int, Meta(ge=8, le=1 << 20)] = 64 << 10
    lanes: Annotated[int, Meta(ge=1, le=16)] = 4

    def __post_init__(self) -> None:
        if self.memory_kib < 8 * self.lanes:
            raise ValueError("Argon2id needs 8 KiB of memory for each lane")


class FileRoot(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="key-file"):
    """The root key is a file of 32 bytes."""


class PassphraseRoot(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="passphrase"):
    """The root key is derived from a passphrase."""

    salt: Annotated[bytes, Meta(min_length=16, max_length=64)]
    cost: Argon2


class OsRoot(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="os-keyring"):
    """The root key lies in the operating system's keyring."""


Root = FileRoot | PassphraseRoot | OsRoot


class KekVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One version of a KEK, sealed."""

    version: Positive
    sealed: Sealed


class Kek(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A KEK: the versions that may still decrypt, lowest first and without gaps."""

    versions: Annotated[tuple[KekVersion, ...], Meta(min_length=1)]

    def __post_init__(self) -> None:
        numbers = [entry.version for entry in self.versions]
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise ValueError("the versions of a KEK aren't consecutive")

    @property
    def floor(self) -> int:
        """The lowest version that may decrypt."""
        return self.versions[0].version

    @property
    def newest(self) -> int:
        """The version that new data keys use."""
        return self.versions[-1].version


class SigningKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An Ed25519 key: the public half as raw bytes, the private one sealed."""

    version: Positive
    public_key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    sealed: Sealed


class Keyring(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file. `check` opens under the right root key; `tag` is over all the rest."""

    schema: Literal[1] = 1
    root: Root
    check: Sealed
    keks: dict[KekName, Kek]
    signing: dict[SigningPurpose, Annotated[tuple[SigningKey, ...], Meta(min_length=1)]]
    tag: Annotated[bytes, Meta(max_length=MAX_SEALED)] = b""

    def __post_init__(self) -> None:
        if set(self.signing) != set(PURPOSES):
            raise ValueError("there isn't a signing key for each purpose")

    def tagged_bytes(self) -> bytes:
        """What `tag` is over."""
        return canonical.encode(msgspec.structs.replace(self, tag=b""))

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical.encode(self)


def parse(data: bytes, where: str) -> Keyring:
    """Parse strictly. IntegrityError (`bad_keyring`), also for a file that was cut short."""
    try:
        return canonical.decode(data, Keyring, limit=MAX_BYTES, what=f"keyring {where}")
    except IntegrityError as refused:
        raise IntegrityError(
            "bad_keyring",
            refused.message,
            "restore the keyring file from a backup; no key in it was used",
        ) from None
