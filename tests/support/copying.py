"""Two vaults that trust each other, and the walk of a copy between them, step by step.

with pair(tmp_path) as (giver, receiver):
    published = carry(giver, "m@1", receiver, "n")
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from modelvault.copies import (
    HandedOver,
    HandOverAsk,
    ImportAsk,
    ImportDraft,
    ImportedFile,
    Importing,
)
from modelvault.manifest import Manifest
from modelvault.record import SignedVersion
from modelvault.upload import Published
from support.vaults import Vault, make

FILES = {"a.bin": b"a" * 1000, "b/c.json": b"{}", "empty": b""}


@contextmanager
def pair(root: Path, **options: Any) -> Iterator[tuple[Vault, Vault]]:
    """A giver with model `m` of FILES, and a receiver with an empty model `n`."""
    (root / "giver").mkdir()
    (root / "receiver").mkdir()
    giver, receiver = make(root / "giver", **options), make(root / "receiver", **options)
    try:
        befriend(giver, receiver)
        giver.create("m")
        giver.push("m", FILES, labels={"team": "search"})
        receiver.create("n")
        yield giver, receiver
    finally:
        giver.close()
        receiver.close()


def befriend(one: Vault, other: Vault) -> None:
    """Each trusts the other alone."""
    one.broker = one.another_broker(trusted={other.id: other.trust})
    other.broker = other.another_broker(trusted={one.id: one.trust})


def documents(giver: Vault, reference: str) -> SignedVersion:
    """A version's documents, without a tag's."""
    signed = giver.broker.pull(giver.caller(), reference)
    return SignedVersion(model=signed.model, manifest=signed.manifest)


def manifest_of(signed: SignedVersion) -> Manifest:
    return Manifest.from_bytes(signed.manifest.payload)


def put_objects(giver: Vault, receiver: Vault, manifest: Manifest) -> tuple[ImportedFile, ...]:
    """The ciphertext from store to store, under fresh names."""

    def put(name: str) -> str:
        data = bytearray(giver.store.size(name))
        giver.store.read_into(name, 0, memoryview(data))
        fresh = f"objects/{secrets.token_hex(16)}"

        def fill(_part: int, buffer: memoryview) -> None:
            buffer[:] = data

        receiver.store.put(fresh, (len(data),), fill)
        return fresh

    return tuple(
        ImportedFile(file.path, put(file.object), put(file.leaves)) for file in manifest.files
    )


def begin(
    receiver: Vault, target: str, source: SignedVersion | None, *, sub: str = "alice"
) -> Importing:
    ask = ImportAsk(reference=target, source=source)
    return receiver.broker.open_import(receiver.caller(sub), ask)


def hand_over(
    giver: Vault, reference: str, importing: Importing, *, sub: str = "alice", **changes: Any
) -> HandedOver:
    ask = HandOverAsk(reference=reference, purpose="copy", invitation=importing.invitation)
    return giver.broker.hand_over(
        giver.caller(sub), msgspec.structs.replace(ask, **changes) if changes else ask
    )


def carry(
    giver: Vault,
    reference: str,
    receiver: Vault,
    target: str,
    *,
    change: Callable[[ImportDraft], ImportDraft] = lambda draft: draft,
) -> Published:
    """The whole walk; `change` meddles with what the receiver gets."""
    source = documents(giver, reference)
    importing = begin(receiver, target, source)
    handed = hand_over(giver, reference, importing)
    draft = ImportDraft(
        source=source,
        sealed=handed.sealed,
        files=put_objects(giver, receiver, manifest_of(source)),
    )
    return receiver.broker.commit_import(receiver.caller(), importing.id, change(draft))
