"""Copies of wrapped keys in the store, so that a lost ledger can be rebuilt.

Written before the ledger names the key, never after. A copy is `keys/<artifact>/<kek version>`
and holds only what the key service wrapped. The ledger never takes a key from the store: whoever
can write there could put an older or another one.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from modelvault import canonical
from modelvault.broker.parts import Parts
from modelvault.catalog import KeyRow
from modelvault.errors import Conflict, ModelVaultError, NotFound, Unavailable
from modelvault.manifest import Id, Name, Positive
from modelvault.ports.keys import WrappedKey
from modelvault.ports.objects import ObjectStore

PREFIX = "keys/"
_NAME = re.compile(r"keys/(?P<artifact>[0-9a-f]{32})/(?P<version>[1-9][0-9]{0,8})", re.ASCII)
_MAX_BYTES = 8 << 10


class KeyCopy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The object's content, as canonical JSON."""

    schema: Literal[1] = 1
    vault: Id
    tenant: Name
    model: Name
    artifact: Id
    kek_version: Positive
    wrapped: bytes


def name_of(artifact: str, kek_version: int) -> str:
    """The object's name."""
    return f"{PREFIX}{artifact}/{kek_version}"


def parse_name(name: str) -> tuple[str, int] | None:
    """(artifact, KEK version), or None for a name that isn't a copy's."""
    match = _NAME.fullmatch(name)
    return None if match is None else (match["artifact"], int(match["version"]))


def deposit(parts: Parts, row: KeyRow) -> None:
    """Put the copy of a wrapped key; one that is there already must be good.

    Rewrapping is randomised, so the copy of an interrupted run has other bytes. It is good when
    the key service can rewrap it under this artifact's context: then it wraps a key that was made
    for this artifact, and the broker needn't see it. A copy that isn't good is replaced.
    """
    content = canonical.encode(
        KeyCopy(
            vault=parts.vault,
            tenant=row.tenant,
            model=row.model,
            artifact=row.artifact,
            kek_version=row.kek_version,
            wrapped=row.wrapped,
        )
    )
    name = name_of(row.artifact, row.kek_version)
    try:
        _put(parts.objects, name, content)
    except Conflict:
        if not _is_good(parts, row, name, content):
            parts.objects.delete(name)
            _put(parts.objects, name, content)


def _put(store: ObjectStore, name: str, content: bytes) -> None:
    def fill(_part: int, buffer: memoryview) -> None:
        buffer[:] = content

    store.put(name, (len(content),), fill)


def _is_good(parts: Parts, row: KeyRow, name: str, content: bytes) -> bool:
    stored = _read(parts.objects, name)
    if stored == content:
        return True
    try:
        copy = canonical.decode(stored, KeyCopy, limit=_MAX_BYTES, what=name)
        said = (copy.vault, copy.tenant, copy.model, copy.artifact, copy.kek_version)
        if said != (parts.vault, row.tenant, row.model, row.artifact, row.kek_version):
            return False
        context = parts.key_context(row.tenant, row.model, row.artifact)
        wrapped = WrappedKey(copy.wrapped, copy.kek_version)
        parts.admin.rewrap(parts.kek(row.tenant, row.model), [(wrapped, context)])
    except Unavailable:
        raise
    except ModelVaultError:
        return False
    return True


def _read(store: ObjectStore, name: str) -> bytes:
    try:
        size = store.size(name)
        buffer = bytearray(min(size, _MAX_BYTES + 1))
        store.read_into(name, 0, memoryview(buffer))
    except NotFound:
        return b""
    return bytes(buffer)
