"""A second reader of the format, written from docs/format.md alone: nothing of modelvault in it.

Given a folder of objects, a trust file, the signed documents of a version and its keys, it
verifies everything and returns the plaintexts. Slow and short on purpose: an oracle for tests,
and a start for whoever writes a reader in another language.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path

import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

MANIFEST = "application/vnd.modelvault.manifest.v1+json"
MODEL = "application/vnd.modelvault.model.v1+json"
TAG = "application/vnd.modelvault.tag.v1+json"
LIMITS = {MANIFEST: 64 << 20, MODEL: 64 << 10, TAG: 64 << 10}
FIELDS = {
    MANIFEST: "schema vault tenant model version artifact created_at created_by previous "
    "digest_alg files hints labels provenance tensors",
    MODEL: "schema vault tenant model owner classification serial created_at",
    TAG: "schema vault tenant model tag version manifest serial",
}


class Refused(Exception):
    """Something isn't what it must be."""


def need(holds: bool, why: str) -> None:
    if not holds:
        raise Refused(why)


# Section 3: documents


def strict_json(data: bytes, limit: int) -> dict:
    need(len(data) <= limit, "too large")
    try:
        document = json.loads(
            data.decode("utf-8"), object_pairs_hook=unique, parse_float=no, parse_constant=no
        )
    except (ValueError, RecursionError) as error:
        raise Refused(f"not strict JSON: {error}") from None
    need(isinstance(document, dict) and depth(document) <= 32, "not an object, or too deep")
    return document


def unique(pairs: list) -> dict:
    need(len({key for key, _ in pairs}) == len(pairs), "a key stands twice")
    return dict(pairs)


def no(_text: str) -> object:
    raise Refused("a number that isn't whole")


def depth(value: object) -> int:
    inside = value.values() if isinstance(value, dict) else value if type(value) is list else ()
    return isinstance(value, dict | list) + max(map(depth, inside), default=0)


def keys_of(trust: dict, purpose: str) -> dict[str, bytes]:
    keys = {}
    for key in trust["keys"]:
        raw = base64.b64decode(key["public_key"], validate=True)
        need(key["keyid"] == "sha256:" + hashlib.sha256(raw).hexdigest(), "key id")
        if key["purpose"] == purpose:
            keys[key["keyid"]] = raw
    return keys


def opened(envelope: dict, kind: str, trust: dict, purpose: str) -> tuple[dict, str]:
    """(document, digest) of a DSSE envelope that a key of this purpose has signed."""
    need(set(envelope) == {"payloadType", "payload", "signatures"}, "envelope")
    need(envelope["payloadType"] == kind, "another kind of document")
    payload = base64.b64decode(envelope["payload"], validate=True)
    message = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
    keys = keys_of(trust, purpose)
    need(any(signed(entry, keys, message) for entry in envelope["signatures"]), "signature")
    document = strict_json(payload, LIMITS[kind])
    need(set(document) == set(FIELDS[kind].split()), "fields")
    need(document["schema"] == 1 and document["vault"] == trust["vault"], "schema or vault")
    return document, "sha256:" + hashlib.sha256(payload).hexdigest()


def signed(entry: dict, keys: dict[str, bytes], message: bytes) -> bool:
    if entry["keyid"] not in keys:
        return False
    key = Ed25519PublicKey.from_public_bytes(keys[entry["keyid"]])
    try:
        key.verify(base64.b64decode(entry["sig"], validate=True), message)
    except Exception:  # noqa: BLE001 - any failure is a no
        return False
    return True


def verified_manifest(signed_version: dict, trust: dict, tenant: str, model: str) -> dict:
    """The manifest of one version of the model that was asked for."""
    record, _ = opened(signed_version["model"], MODEL, trust, "record")
    manifest, digest = opened(signed_version["manifest"], MANIFEST, trust, "manifest")
    documents = [record, manifest]
    if signed_version.get("tag") is not None:
        tag, _ = opened(signed_version["tag"], TAG, trust, "record")
        need((tag["version"], tag["manifest"]) == (manifest["version"], digest), "tag")
        documents.append(tag)
    for document in documents:
        need((document["tenant"], document["model"]) == (tenant, model), "another model")
    return manifest


# Sections 1 and 2: keys and file bodies


def expand(key: bytes, info: bytes, size: int) -> bytes:
    return HKDFExpand(SHA384(), size, info).derive(key)


def file_key(dek: bytes, artifact: str, path: str) -> bytes:
    return expand(
        dek, b"\0".join((b"modelvault/file-key/v1", artifact.encode(), path.encode())), 32
    )


def leaf(alg: str, data: bytes) -> bytes:
    return blake3.blake3(data).digest() if alg == "blake3" else hashlib.sha256(data).digest()


def list_digest(alg: str, leaves: bytes) -> str:
    if alg == "blake3":
        context = "modelvault 2026 leaf list v1"
        return "blake3:" + blake3.blake3(leaves, derive_key_context=context).hexdigest()
    return "sha256:" + hashlib.sha256(b"modelvault leaf list v1\0" + leaves).hexdigest()


def decrypt(body: bytes, key: bytes, aad: bytes, length: int, bits: int = 20) -> bytes:
    """The plaintext of a whole FLOE ciphertext with segments of `length` bytes."""
    need(len(body) > 74 and body[:10] == b"\0\0" + length.to_bytes(4) + b"\0\0\0\x20", "header")
    start = body[:42]  # parameters and IV
    need(hmac.compare_digest(expand(key, start + b"HEADER_TAG:" + aad, 32), body[42:74]), "tag")
    message_key = expand(key, start + b"MESSAGE_KEY:" + aad, 48)
    segments = [body[at : at + length] for at in range(74, len(body), length)]
    plain = []
    for position, segment in enumerate(segments):
        final = position == len(segments) - 1
        need(len(segment) >= 32, "a short segment")
        need(segment[:4] == (len(segment).to_bytes(4) if final else b"\xff" * 4), "length field")
        era = (position >> bits << bits).to_bytes(8)
        cipher = AESGCM(expand(message_key, start + b"DEK:" + era + aad, 32))
        try:
            plain.append(
                cipher.decrypt(segment[4:16], segment[16:], position.to_bytes(8) + bytes([final]))
            )
        except Exception:  # noqa: BLE001 - any failure is a no
            raise Refused(f"segment {position}") from None
    return b"".join(plain)


def read_file(objects: Path, entry: dict, alg: str, key: bytes) -> bytes:
    """One file of a manifest, checked against its leaf list and decrypted."""
    body, leaves = ((objects / entry[name]).read_bytes() for name in ("object", "leaves"))
    length, aad = (
        entry["segment_length"],
        f"modelvault/file/v1\0{entry['artifact']}\0{entry['path']}",
    )
    count = max(1, -(-entry["size"] // (length - 32)))
    need(len(body) == 74 + entry["size"] + 32 * count, "size")
    need(len(leaves) == 32 * (1 + count) and list_digest(alg, leaves) == entry["digest"], "leaves")
    parts = [body[:74], *(body[at : at + length] for at in range(74, len(body), length))]
    need(b"".join(leaf(alg, part) for part in parts) == leaves, "contents")
    return decrypt(body, key, aad.encode(), length)


def read_version(
    objects: Path,
    trust_file: Path,
    signed_version: dict,
    name: tuple[str, str],
    key_of: Callable[[dict], bytes],
) -> dict[str, bytes]:
    """{path: plaintext} of a version of (tenant, model); `key_of(file entry)` is its FileKey."""
    trust = strict_json(trust_file.read_bytes(), 256 << 10)
    manifest = verified_manifest(signed_version, trust, *name)
    alg = manifest["digest_alg"]
    return {
        entry["path"]: read_file(objects, entry, alg, key_of(entry)) for entry in manifest["files"]
    }
