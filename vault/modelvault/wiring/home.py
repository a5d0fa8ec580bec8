"""The home folder of an embedded vault: what lies where, and its description `vault.json`.

Nothing in here opens a key. Folders are 0700, files 0600.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from modelvault import canonical
from modelvault.errors import IntegrityError, NotFound
from modelvault.manifest import MAX_SEGMENT, MIN_SEGMENT, DigestAlgorithm, Id, Time

MAX_DESCRIPTION = 64 << 10

RootKind = Literal["file", "passphrase", "keyring"]


class Root(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where the root key comes from; never the key. `path` is the key file's."""

    kind: RootKind
    path: str | None = None


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who this home's owner is to its own issuer: what push and load show without any token."""

    sub: Annotated[str, Meta(min_length=1, max_length=128)]
    groups: tuple[str, ...]


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`vault.json`. `segment_length` is in bytes."""

    schema: Literal[1] = 1
    vault: Id
    created_at: Time
    digest_alg: DigestAlgorithm
    segment_length: Annotated[int, Meta(ge=MIN_SEGMENT, le=MAX_SEGMENT)]
    root: Root
    identity: Identity


class Home(msgspec.Struct, frozen=True):
    """The paths in a home folder."""

    path: Path

    @property
    def description(self) -> Path:
        """What the vault is."""
        return self.path / "vault.json"

    @property
    def keyring(self) -> Path:
        """KEKs and signing keys, sealed under the root key."""
        return self.path / "keyring.json"

    @property
    def ledger(self) -> Path:
        """Catalog and audit log."""
        return self.path / "ledger.db"

    @property
    def ledger_url(self) -> str:
        """The ledger as SQLAlchemy names it."""
        return f"sqlite:///{self.ledger}"

    @property
    def objects(self) -> Path:
        """Ciphertexts and leaf lists."""
        return self.path / "objects"

    @property
    def policy(self) -> Path:
        """The working copy of the policies, and what was published."""
        return self.path / "policy"

    @property
    def trust(self) -> Path:
        """The pinned trust file."""
        return self.path / "trust.json"

    @property
    def trusted(self) -> Path:
        """Trust files of other vaults, each in a record that this vault has signed."""
        return self.path / "trusted"

    @property
    def pins(self) -> Path:
        """What this client has seen."""
        return self.path / "pins.json"

    @property
    def taken(self) -> bool:
        """Whether something stands here already; an empty folder may become a vault."""
        try:
            if self.path.is_symlink() or not self.path.is_dir():
                return os.path.lexists(self.path)
        except OSError:  # out of reach: whoever makes it is told why
            return False
        try:
            return any(self.path.iterdir())
        except OSError:  # somebody else's
            return True

    def read(self) -> Description:
        """Raises NotFound (`no_home`), IntegrityError when vault.json is broken."""
        try:
            data = self.description.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(
                "no_home",
                f"there is no vault in {self.path}",
                "something else is there: name the vault's folder with --home or MODELVAULT_HOME"
                if self.taken
                else "make one with `modelvault init`, or set MODELVAULT_HOME to where it is",
            ) from None
        except OSError as error:
            raise NotFound(
                "no_home",
                f"can't read {self.description}: {os.strerror(error.errno or 0)}",
                "run as the user that owns the home",
            ) from None
        return canonical.decode(
            data,
            Description,
            limit=MAX_DESCRIPTION,
            what=str(self.description),
            error=IntegrityError,
        )
