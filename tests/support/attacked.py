"""A home that somebody attacks: made by its owner, then touched from outside, as files and rows.

The attacker here may write wherever the home lies, and doesn't have the root key.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modelvault import canonical, connect
from modelvault.adapters.objects_folder import FolderStore
from modelvault.artifact.writer import encrypt_file
from modelvault.client.session import Session
from modelvault.crypto import derive, dsse
from modelvault.crypto.dsse import Envelope, Signature
from modelvault.crypto.floe import Geometry
from modelvault.crypto.secret import Secret
from modelvault.manifest import FileEntry
from modelvault.record import KeyPurpose, TrustFile, TrustKey


def folder(place: Path, files: Mapping[str, bytes]) -> Path:
    """A folder to push."""
    for path, data in files.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(data)
    return place


def rows(home: Path, question: str, *values: object) -> list[tuple[object, ...]]:
    """What a query of the ledger's file gives."""
    with closing(sqlite3.connect(home / "ledger.db")) as database:
        return database.execute(question, values).fetchall()


def change(home: Path, statement: str, *values: object) -> int:
    """Write into the ledger's file; the number of rows that it hit, of which there must be one."""
    with closing(sqlite3.connect(home / "ledger.db")) as database:
        hit = database.execute(statement, values).rowcount
        database.commit()
    assert hit > 0, statement
    return hit


def as_somebody(vault: Session, sub: str, *groups: str) -> Session:
    """A session of another identity of the same vault."""
    return connect(token=vault.mint_token(sub=sub, groups=groups))


class Forger:
    """Signs with keys of its own, and can put them into a home's trust file."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.public = self._key.public_key().public_bytes_raw()
        self.keyid = dsse.keyid(self.public)

    def sign(self, payload_type: str, document: object) -> Envelope:
        return dsse.sign(
            payload_type,
            canonical.encode(document),
            lambda message: Signature(self.keyid, self._key.sign(message)),
        )

    def into(self, trust: TrustFile, purpose: KeyPurpose) -> TrustFile:
        """The trust file with the forger's key in the place of the one for `purpose`."""
        mine = TrustKey(
            keyid=self.keyid, purpose=purpose, public_key=self.public,
            valid_from=trust.keys[0].valid_from,
        )  # fmt: skip
        others = tuple(key for key in trust.keys if key.purpose != purpose)
        return msgspec.structs.replace(trust, keys=(*others, mine))


def forge_file(home: Path, entry: FileEntry, key: bytes, content: bytes, alg: str) -> FileEntry:
    """New contents under a file key that was once held, as sound objects in the store."""
    names = (f"objects/{secrets.token_hex(16)}", f"objects/{secrets.token_hex(16)}")

    def read(offset: int, buffer: memoryview) -> None:
        buffer[:] = content[offset : offset + len(buffer)]

    encrypted = encrypt_file(
        read, len(content), Secret.copy_of(key), Secret.random(32),
        derive.file_aad(entry.artifact, entry.path),
        Geometry(entry.segment_length), alg, FolderStore(home), names, lambda _done: None,
    )  # fmt: skip
    return msgspec.structs.replace(
        entry, size=len(content), object=names[0], leaves=names[1], digest=encrypted.digest
    )
