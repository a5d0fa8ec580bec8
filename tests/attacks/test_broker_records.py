"""Whoever may write to the ledger's database signs nothing: forged and exchanged documents."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelvault import canonical
from modelvault.crypto import dsse
from modelvault.crypto.dsse import Envelope
from modelvault.errors import IntegrityError, ModelVaultError, NotFound
from modelvault.manifest import PAYLOAD_TYPE, Manifest
from modelvault.record import MODEL_TYPE, TAG_TYPE, ModelRecord, TagRecord
from support.forged_ledger import ForgedLedger
from support.vaults import Vault, make, opened

FILES = {"a.bin": b"a" * 100}
OTHERS = {"a.bin": b"n" * 100}


@pytest.fixture(scope="module")
def vault() -> Iterator[Vault]:
    """Two models, two versions each, tagged; nothing in these tests changes them."""
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder)) as made:
        for name, files in (("m", FILES), ("n", OTHERS)):
            made.create(name, classification="restricted")
            made.push(name, files)
            made.push(name, files)
            made.broker.tag(made.caller(), f"{name}@1", "prod")
            made.broker.tag(made.caller(), f"{name}@2", "next")
        yield made


@pytest.fixture(scope="module")
def stranger() -> Iterator[Vault]:
    """Another vault, with models of the same names."""
    with tempfile.TemporaryDirectory() as folder:
        made = make(Path(folder))
        made.create("m")
        made.push("m", FILES)
        made.broker.tag(made.caller(), "m", "prod")
        yield made
        made.close()


def database(vault: Vault, **rows: Any) -> Any:
    """A broker over a ledger in which somebody changed rows, after it has seen the true ones: what
    it remembers of them doesn't make it believe others."""
    ledger = ForgedLedger(vault.ledger, **rows)
    broker = vault.another_broker(ledger=ledger)
    ledger.on = False
    for reference in ("m", "m:prod", "m:next", "n:prod"):
        vault.lease(reference, broker=broker)
    ledger.on = True
    return broker


def signed(vault: Vault, kind: str, document: object, purpose: str) -> Envelope:
    return dsse.sign(kind, canonical.encode(document), partial(vault.keyring.sign, purpose))


def parsed(envelope: Envelope, kind: type) -> Any:
    return msgspec.json.decode(envelope.payload, type=kind)


def refused(vault: Vault, broker: Any, reference: str = "m:prod") -> ModelVaultError:
    before = vault.keys.count("unwrap")
    with pytest.raises((IntegrityError, NotFound)) as caught:
        vault.lease(reference, broker=broker)
    assert vault.keys.count("unwrap") == before
    return caught.value


def with_record(change: Any) -> Any:
    return lambda row: msgspec.structs.replace(row, record=change(row.record))


def flipped(envelope: Envelope) -> Envelope:
    payload = bytearray(envelope.payload)
    payload[payload.index(b"restricted")] ^= 1
    return msgspec.structs.replace(envelope, payload=bytes(payload))


def downgraded(vault: Vault, purpose: str) -> Any:
    def change(envelope: Envelope) -> Envelope:
        record = parsed(envelope, ModelRecord)
        return signed(
            vault,
            MODEL_TYPE,
            msgspec.structs.replace(record, classification="public"),
            purpose,
        )

    return change


def test_an_altered_model_record(vault: Vault) -> None:
    broker = database(vault, model=with_record(flipped))
    assert refused(vault, broker).code == "bad_signature"


@pytest.mark.parametrize("purpose", ["manifest", "log", "bundle", "token"])
def test_a_model_record_by_a_key_of_another_purpose(vault: Vault, purpose: str) -> None:
    broker = database(vault, model=with_record(downgraded(vault, purpose)))
    assert refused(vault, broker).code == "unknown_key"


def test_a_model_record_of_another_model(vault: Vault) -> None:
    other = vault.ledger.model("default", "n").record
    broker = database(vault, model=with_record(lambda _e: other))
    assert refused(vault, broker).code == "ledger_altered"


def test_documents_of_another_vault(vault: Vault, stranger: Vault) -> None:
    record = stranger.ledger.model("default", "m").record
    tag = stranger.ledger.tag("default", "m", "prod").record
    manifest = stranger.ledger.version("default", "m", 1)
    for forged in (
        {"model": with_record(lambda _e: record)},
        {"tag": with_record(lambda _e: tag)},
        {
            "version": lambda row: msgspec.structs.replace(
                row, manifest=manifest.manifest, digest=manifest.digest
            )
        },
    ):
        assert refused(vault, database(vault, **forged)).code == "unknown_key"


def test_a_tag_record_of_another_tag(vault: Vault) -> None:
    other = vault.ledger.tag("default", "m", "next")
    renamed = msgspec.structs.replace(other, tag="prod")
    broker = database(vault, tag=lambda _row: renamed)
    assert refused(vault, broker).code == "ledger_altered"


def test_a_tag_row_that_points_elsewhere(vault: Vault) -> None:
    broker = database(vault, tag=lambda row: msgspec.structs.replace(row, version=2))
    assert refused(vault, broker).code == "ledger_altered"


def test_a_tag_record_as_model_record(vault: Vault) -> None:
    tag = vault.ledger.tag("default", "m", "prod").record
    broker = database(vault, model=with_record(lambda _e: tag))
    assert refused(vault, broker).code == "wrong_type"


def test_a_tag_of_a_manifest_that_isnt_the_versions(vault: Vault) -> None:
    record = parsed(vault.ledger.tag("default", "m", "prod").record, TagRecord)
    mixed = signed(
        vault,
        TAG_TYPE,
        msgspec.structs.replace(record, manifest="sha256:" + "00" * 32),
        "record",
    )
    broker = database(vault, tag=with_record(lambda _e: mixed))
    assert refused(vault, broker).code == "wrong_version"


def test_another_versions_manifest(vault: Vault) -> None:
    second = vault.ledger.version("default", "m", 2)
    broker = database(
        vault,
        version=lambda row: msgspec.structs.replace(
            row, manifest=second.manifest, digest=second.digest
        ),
    )
    assert refused(vault, broker, "m@1").code == "wrong_version"


def test_another_models_manifest(vault: Vault) -> None:
    """Whoever may load m doesn't get n's keys by a row that was exchanged."""
    other = vault.ledger.version("default", "n", 1)
    broker = database(
        vault,
        version=lambda row: msgspec.structs.replace(
            row, manifest=other.manifest, digest=other.digest, artifact=other.artifact
        ),
    )
    assert refused(vault, broker, "m@1").code == "wrong_model"


def test_a_manifest_by_a_key_of_another_purpose(vault: Vault) -> None:
    def change(row: Any) -> Any:
        manifest = Manifest.from_bytes(row.manifest.payload)
        forged = signed(
            vault, PAYLOAD_TYPE, msgspec.structs.replace(manifest, labels={"x": "y"}), "record"
        )
        return msgspec.structs.replace(row, manifest=forged, digest=forged.digest)

    assert refused(vault, database(vault, version=change)).code == "unknown_key"


@pytest.mark.parametrize("reference", ["m", "m@1", "m:prod"])
def test_another_models_wrapped_key(vault: Vault, reference: str) -> None:
    """A key row that was exchanged opens nothing: the key service binds it to its artifact."""
    other = vault.ledger.key(vault.ledger.version("default", "n", 1).artifact)
    broker = database(
        vault,
        key=lambda row: msgspec.structs.replace(row, wrapped=other.wrapped),
    )
    before = {row.id for row in vault.ledger.leases(limit=1000)}
    with pytest.raises(IntegrityError) as caught:
        vault.lease(reference, broker=broker)
    assert caught.value.code == "bad_wrapped_key"
    (row,) = (row for row in vault.ledger.leases(limit=1000) if row.id not in before)
    assert row.end_reason == "failed"


def test_another_models_digest_in_a_reference(vault: Vault) -> None:
    digest = vault.ledger.version("default", "n", 1).digest
    with pytest.raises(NotFound):
        vault.lease(f"m@{digest}")


def test_an_id_that_was_made_up(vault: Vault) -> None:
    for call in (
        lambda: vault.broker.renew(vault.caller(), secrets.token_hex(16), "A" * 43),
        lambda: vault.broker.release(vault.caller(), "' OR 1=1 --"),
        lambda: vault.broker.renew(vault.caller(), "../" * 9, os.urandom(8).hex()),
    ):
        with pytest.raises(NotFound):
            call()
