"""Trust files and audit entries."""

from __future__ import annotations

import hashlib
import json

import msgspec
import pytest

from modelvault import canonical
from modelvault.errors import IntegrityError
from modelvault.record import Entry, TrustFile
from support.documents import NOW, Keys

TRUST = Keys().trust()


def changed(**changes: object) -> bytes:
    return json.dumps(json.loads(TRUST.to_bytes()) | changes).encode()


def key(number: int = 0, **changes: object) -> dict:
    return json.loads(TRUST.to_bytes())["keys"][number] | changes


def test_trust_file_round_trip_and_purposes() -> None:
    assert TrustFile.from_bytes(TRUST.to_bytes()) == TRUST
    (manifest,) = TRUST.keys_for("manifest").items()
    assert manifest == (TRUST.keys[0].keyid, TRUST.keys[0].public_key)
    assert TRUST.keys_for("record").keys().isdisjoint(TRUST.keys_for("manifest"))


def test_retired_keys_still_vouch_for_what_they_signed() -> None:
    old = msgspec.structs.replace(TRUST.keys[0], retired=NOW)
    assert TrustFile(vault=TRUST.vault, keys=(old,), serial=2).keys_for("manifest")


@pytest.mark.parametrize(
    "data",
    [
        changed(keys=[key(keyid="sha256:" + "0" * 64)]),
        changed(keys=[key(), key()]),
        changed(keys=[key(), key(purpose="record")]),
        changed(keys=[key(public_key="")]),
        changed(keys=[key(public_key=key()["public_key"] + "\n")]),
        changed(keys=[key(purpose="token")]),
        changed(keys=[key(valid_from="yesterday")]),
        changed(serial=0),
        changed(vault="x"),
        changed(extra=1),
        changed(schema=2),
        b"{}",
        b"[" * 5000,
        b" " * (1 << 19),
    ],
)
def test_trust_files_that_are_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError) as error:
        TrustFile.from_bytes(data)
    assert error.value.message.startswith("trust file: ")


def test_leaf_hash_of_an_entry() -> None:
    entry = Entry(id="0" * 32, at=NOW, actor="local:a", action="push", outcome="done")
    assert entry.leaf_hash() == hashlib.sha256(b"\0" + canonical.encode(entry)).digest()
    assert msgspec.structs.replace(entry, seq=1).leaf_hash() != entry.leaf_hash()
