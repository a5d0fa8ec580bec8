"""Decide whether a version may be believed. No I/O, no clock: values in, values out.

docs/format.md, section 3. A broker or a store may lie about all it hands out; what is believed
here is the trust file, which came another way, and what this client has seen before.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from modelvault import canonical
from modelvault.crypto import dsse
from modelvault.crypto.dsse import Envelope
from modelvault.errors import IntegrityError
from modelvault.manifest import PAYLOAD_TYPE, Manifest
from modelvault.record import (
    MAX_RECORD,
    MODEL_TYPE,
    TAG_TYPE,
    TRUST_TYPE,
    ModelRecord,
    SignedVersion,
    TagRecord,
    TrustFile,
)
from modelvault.reference import Reference

_DISTRUST = "don't use this answer: ask who runs the vault why it doesn't fit"
_OLD = (
    "somebody put an old record back, or restored an old backup: ask who runs the vault; only "
    "if that was meant, remove this entry from the file of pins"
)

Record = TypeVar("Record", ModelRecord, TagRecord)


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one client has seen of one vault: highest serials, and each version's digest.

    Keys: `tags` by `tenant/model:tag`, `models` by `tenant/model`, `versions` by
    `tenant/model@7`. A job without lasting state begins with an empty one.
    """

    tags: dict[str, int] = {}
    models: dict[str, int] = {}
    versions: dict[str, str] = {}


class Verified(msgspec.Struct, frozen=True):
    """A version that may be believed; `digest` names its manifest, `seen` is to be kept."""

    model: ModelRecord
    tag: TagRecord | None
    manifest: Manifest
    digest: str
    seen: Seen


def verify(signed: SignedVersion, reference: Reference, trust: TrustFile, seen: Seen) -> Verified:
    """Check signatures by purpose, that all documents are of one version of the asked model, and
    that none is older than what was seen.

    Raises IntegrityError: `wrong_type`, `unknown_key`, `bad_signature` (signatures); `too_large`,
    `too_deep`, `bad_json`, `bad_document` (contents); `wrong_vault`, `wrong_model`, `wrong_tag`,
    `wrong_version`, `wrong_digest`, `missing_tag_record`, `unexpected_tag_record` (not what was
    asked for); `rollback` (an older serial, or another digest for a version seen before).
    """
    model = _model_record(signed, reference, trust)
    tag = _tag_record(signed, reference, trust)
    digest = signed.manifest.digest
    manifest = _manifest(signed.manifest, reference, trust)
    if tag is not None and (tag.version, tag.manifest) != (manifest.version, digest):
        raise _refuse("wrong_version", f"{reference}: its tag record means another version")
    if reference.version is not None and manifest.version != reference.version:
        raise _refuse("wrong_version", f"{reference}: answered with version {manifest.version}")
    if reference.digest is not None and digest != reference.digest:
        raise _refuse("wrong_digest", f"{reference}: answered with another manifest")
    return Verified(model, tag, manifest, digest, _fresh(model, tag, manifest, digest, seen))


def _model_record(signed: SignedVersion, reference: Reference, trust: TrustFile) -> ModelRecord:
    what = f"the model record of {reference.name}"
    record = _record(signed.model, MODEL_TYPE, ModelRecord, trust, what)
    _same_model(record, reference, trust, what)
    return record


def _tag_record(signed: SignedVersion, reference: Reference, trust: TrustFile) -> TagRecord | None:
    if reference.tag is None:
        if signed.tag is not None:
            raise _refuse("unexpected_tag_record", f"{reference}: no tag was asked for")
        return None
    if signed.tag is None:
        raise _refuse("missing_tag_record", f"{reference}: the answer has no tag record")
    what = f"the tag record of {reference}"
    record = _record(signed.tag, TAG_TYPE, TagRecord, trust, what)
    _same_model(record, reference, trust, what)
    if record.tag != reference.tag:
        raise _refuse("wrong_tag", f"{what} is of another tag")
    return record


def _manifest(envelope: Envelope, reference: Reference, trust: TrustFile) -> Manifest:
    what = f"the manifest of {reference}"
    payload = dsse.verify(envelope, PAYLOAD_TYPE, trust.keys_for("manifest"), what)
    manifest = Manifest.from_bytes(payload)
    _same_model(manifest, reference, trust, what)
    return manifest


def _record(
    envelope: Envelope, payload_type: str, wanted: type[Record], trust: TrustFile, what: str
) -> Record:
    try:
        payload = dsse.verify(envelope, payload_type, trust.keys_for("record"), what)
    except IntegrityError as refused:
        if refused.code == "unknown_key":
            _tell_of_another_vault(envelope, wanted, trust, what)
        raise
    return canonical.decode(payload, wanted, limit=MAX_RECORD, what=what)


def _tell_of_another_vault(
    envelope: Envelope, wanted: type[Record], trust: TrustFile, what: str
) -> None:
    """Raise what says so, where a record that nobody vouches for says that it is of another vault:
    advice only, and no word of the record is used."""
    try:
        claimed = canonical.decode(envelope.payload, wanted, limit=MAX_RECORD, what=what).vault
    except IntegrityError:
        return
    if claimed != trust.vault:
        raise IntegrityError(
            "unknown_key",
            f"{what} is said to be of vault {claimed}, and the trust file is of vault "
            f"{trust.vault}, whose keys haven't signed it",
            "name the broker and the trust file of one vault: MODELVAULT_BROKER and "
            "MODELVAULT_TRUST, or one profile's `broker` and `trust`; get a trust file from that "
            "vault's admin, never from the broker",
            vault=trust.vault,
            claimed=claimed,
        )


def _same_model(
    document: ModelRecord | TagRecord | Manifest, asked: Reference, trust: TrustFile, what: str
) -> None:
    if document.vault != trust.vault:
        raise _refuse("wrong_vault", f"{what} is of another vault")
    if (document.tenant, document.model) != (asked.tenant, asked.model):
        raise _refuse("wrong_model", f"{what} is of another model")


def _fresh(
    model: ModelRecord, tag: TagRecord | None, manifest: Manifest, digest: str, seen: Seen
) -> Seen:
    """What was seen, with this added; refuses what is older."""
    name = f"{model.tenant}/{model.model}"
    _not_older(model.serial, seen.models.get(name), f"the model record of {name}")
    models = {**seen.models, name: model.serial}
    tags = dict(seen.tags)
    if tag is not None:
        key = f"{name}:{tag.tag}"
        _not_older(tag.serial, tags.get(key), f"the tag record of {key}")
        tags[key] = tag.serial
    version = f"{name}@{manifest.version}"
    if seen.versions.get(version, digest) != digest:
        raise IntegrityError("rollback", f"{version}: its manifest isn't the one seen before", _OLD)
    return Seen(tags, models, {**seen.versions, version: digest})


def _not_older(serial: int, seen: int | None, what: str) -> None:
    if seen is not None and serial < seen:
        raise IntegrityError(
            "rollback", f"{what} has serial {serial}; this client has seen {seen}", _OLD
        )


def _refuse(code: str, message: str) -> IntegrityError:
    return IntegrityError(code, message, _DISTRUST)


def successor(envelope: Envelope, held: TrustFile) -> TrustFile:
    """The trust file that takes the place of `held`: signed by a record key of it that isn't
    retired, of the same vault, and newer.

    Raises IntegrityError: `wrong_type`, `unknown_key`, `bad_signature`; `bad_document`;
    `wrong_vault`; `rollback` (a serial that isn't higher); `key_reused` (a key that had another
    purpose).
    """
    what = "the new trust file"
    signing = {
        key.keyid: key.public_key
        for key in held.keys
        if key.purpose == "record" and key.retired is None
    }
    made = TrustFile.from_bytes(dsse.verify(envelope, TRUST_TYPE, signing, what))
    if made.vault != held.vault:
        raise _refuse("wrong_vault", f"{what} is of another vault")
    if made.serial <= held.serial:
        raise _refuse(
            "rollback", f"{what} has serial {made.serial}; the one that is pinned {held.serial}"
        )
    purposes = {key.keyid: key.purpose for key in held.keys}
    if any(purposes.get(key.keyid, key.purpose) != key.purpose for key in made.keys):
        raise _refuse("key_reused", f"{what} gives a key another purpose than it had")
    return made
