"""A broker in forty lines that keeps its promises: for tests of a client that must not trust it.

It signs, seals and remembers in dicts; there is no policy, no ledger and no token check. Tests
wrap or subclass it to make it lie.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modelvault import binding
from modelvault.access import Caller, Obligations, Principal
from modelvault.client.context import Context
from modelvault.client.credentials import Credentials
from modelvault.client.direct import Direct
from modelvault.client.pins import Pins
from modelvault.crypto import derive, dsse, hpke
from modelvault.crypto.dsse import Envelope, Signature
from modelvault.crypto.secret import Secret
from modelvault.errors import Conflict, NotFound
from modelvault.lease import Lease, LeaseAsk, ModelDetail, ModelSummary, Receipt, Renewal
from modelvault.manifest import PAYLOAD_TYPE, FileEntry, Manifest
from modelvault.record import (
    MODEL_TYPE,
    TAG_TYPE,
    ModelRecord,
    SignedVersion,
    TagRecord,
    TrustFile,
    TrustKey,
)
from modelvault.reference import Reference
from modelvault.upload import Draft, Published, PushAsk, Upload
from support.memory_store import MemoryStore

WHEN = "2026-01-01T00:00:00.000Z"
RECEIPT = Receipt("00" * 16, "00" * 32)


class Keys:
    """Signing keys of one vault, one for each purpose."""

    def __init__(self, vault: str) -> None:
        self.vault = vault
        self.private = {name: Ed25519PrivateKey.generate() for name in ("manifest", "record")}

    def sign(self, purpose: str, payload_type: str, payload: bytes) -> Envelope:
        key = self.private[purpose]
        keyid = dsse.keyid(key.public_key().public_bytes_raw())
        return dsse.sign(payload_type, payload, lambda data: Signature(keyid, key.sign(data)))

    def trust(self) -> TrustFile:
        raw = {name: key.public_key().public_bytes_raw() for name, key in self.private.items()}
        keys = [TrustKey(keyid=dsse.keyid(k), purpose=n, public_key=k, valid_from=WHEN)  # type: ignore[arg-type]
                for n, k in raw.items()]  # fmt: skip
        return TrustFile(vault=self.vault, keys=tuple(keys), serial=1)


class Store(MemoryStore):
    def delete(self, name: str) -> None:
        self.objects.pop(name, None)


class HonestBroker:
    """Broker and the part of Steward that a push needs."""

    def __init__(self) -> None:
        self.keys = Keys(secrets.token_hex(16))
        self.uploads: dict[str, tuple[PushAsk, Upload, Secret]] = {}
        self.manifests: dict[tuple[str, str], list[Manifest]] = {}
        self.deks: dict[str, Secret] = {}
        self.tags: dict[str, TagRecord] = {}
        self.serials: dict[str, int] = {}
        self.obligations = Obligations()
        self.ttl_s = 600
        self.released: list[str] = []
        self.renewals: list[str] = []

    # pushing

    def open_version(self, caller: Caller, ask: PushAsk) -> Upload:
        reference = Reference.parse(ask.reference)
        dek, artifact, upload = Secret.random(32), secrets.token_hex(16), secrets.token_hex(16)
        paths = [file.path for file in ask.files]
        info = binding.info("push", self.keys.vault, upload, reference.tenant, reference.model,
                            0, None, "push", paths, ask.recipient, ask.nonce)  # fmt: skip
        opened = Upload(
            id=upload,
            tenant=reference.tenant,
            model=reference.model,
            artifact=artifact,
            segment_length=4096,
            digest_alg="blake3",
            expires_at=WHEN,
            sealed=self.seal_push(dek, artifact, paths, ask, info),
        )
        self.uploads[upload] = (ask, opened, dek)
        return opened

    def abandon(self, caller: Caller, upload: str) -> None:
        _ask, opened, _dek = self.uploads[upload]
        if opened.artifact in self.deks:
            raise Conflict("upload_closed", "it is published")
        del self.uploads[upload]

    def commit(self, caller: Caller, upload: str, draft: Draft) -> Published:
        _ask, opened, dek = self.uploads[upload]
        self.deks[opened.artifact] = dek
        versions = self.manifests.setdefault((opened.tenant, opened.model), [])
        manifest = Manifest(
            vault=self.keys.vault,
            tenant=opened.tenant,
            model=opened.model,
            version=len(versions) + 1,
            artifact=opened.artifact,
            created_at=WHEN,
            created_by="local:me",
            previous=self._envelope(versions[-1]).digest if versions else None,
            digest_alg="blake3",
            files=tuple(
                FileEntry(
                    path=file.path,
                    size=file.size,
                    segment_length=opened.segment_length,
                    artifact=opened.artifact,
                    object=file.object,
                    leaves=file.leaves,
                    digest=file.digest,
                )
                for file in draft.files
            ),
            hints=draft.hints,
            labels=draft.labels,
            provenance=draft.provenance,
            tensors=draft.tensors,
        )
        versions.append(manifest)
        signed = self.signed(
            Reference(opened.tenant, opened.model, version=manifest.version), manifest
        )
        return Published(
            tenant=opened.tenant,
            model=opened.model,
            version=manifest.version,
            manifest=signed.manifest.digest,
            signed=signed,
            receipt=RECEIPT,
        )

    def tag(self, caller: Caller, reference: str, tag: str) -> SignedVersion:
        source = Reference.parse(reference)
        manifest = self.find(source)
        target = Reference(source.tenant, source.model, tag=tag)
        old = self.tags.get(str(target))
        self.tags[str(target)] = TagRecord(
            vault=self.keys.vault,
            tenant=source.tenant,
            model=source.model,
            tag=tag,
            version=manifest.version,
            manifest=self._envelope(manifest).digest,
            serial=old.serial + 1 if old else 1,
        )
        return self.signed(target, manifest)

    # loading

    def lease(self, caller: Caller, ask: LeaseAsk) -> Lease:
        reference = Reference.parse(ask.reference)
        manifest = self.find(reference)
        signed = self.signed(reference, manifest)
        paths = tuple(f.path for f in manifest.files if ask.files is None or f.path in ask.files)
        lease = secrets.token_hex(16)
        info = binding.info("lease", self.keys.vault, lease, manifest.tenant, manifest.model,
                            manifest.version, signed.manifest.digest, ask.purpose, paths,
                            ask.recipient, ask.nonce)  # fmt: skip
        files = [(manifest.artifact, path) for path in paths]
        return Lease(
            id=lease,
            tenant=manifest.tenant,
            model=manifest.model,
            version=manifest.version,
            manifest=signed.manifest.digest,
            paths=paths,
            ttl_s=self.ttl_s,
            expires_at=WHEN,
            obligations=self.obligations,
            decision_id="d",
            revision="sha256:" + "0" * 64,
            receipt=RECEIPT,
            sealed=self.seal(self.deks[manifest.artifact], files, ask, info),
            signed=signed,
        )

    def renew(self, caller: Caller, lease: str, key_hash: str) -> Renewal:
        self.renewals.append(lease)
        return Renewal(ttl_s=self.ttl_s, expires_at=WHEN, obligations=self.obligations)

    def release(self, caller: Caller, lease: str) -> None:
        self.released.append(lease)

    def pull(self, caller: Caller, reference: str) -> SignedVersion:
        asked = Reference.parse(reference)
        return self.signed(asked, self.find(asked))

    def show(self, caller: Caller, reference: str) -> ModelDetail:
        summary = ModelSummary(
            tenant="default", model="m", owner="o", classification="internal", created_at=WHEN,
            versions=1, latest=1, size=1, tags=(),
        )  # fmt: skip
        return ModelDetail(summary=summary, versions=(), signed=self.pull(caller, reference))

    def whoami(self, caller: Caller) -> Principal:
        return Principal(
            id=caller.token, issuer="local", groups=(), claims={}, issued_at=0, expires_at=0
        )

    # parts

    def seal(
        self, dek: Secret, files: list[tuple[str, str]], ask: PushAsk | LeaseAsk, info: bytes
    ) -> bytes:
        keys = b"".join(bytes(derive.file_key(dek, *file).reveal()) for file in files)
        return hpke.seal(Secret.copy_of(keys), ask.recipient.suite, ask.recipient.public_key, info)

    def seal_push(
        self, dek: Secret, artifact: str, paths: list[str], ask: PushAsk, info: bytes
    ) -> bytes:
        keys = b"".join(
            [bytes(derive.file_key(dek, artifact, path).reveal()) for path in paths]
            + [bytes(derive.content_key(dek, path).reveal()) for path in paths]
        )
        return hpke.seal(Secret.copy_of(keys), ask.recipient.suite, ask.recipient.public_key, info)

    def find(self, reference: Reference) -> Manifest:
        versions = self.manifests.get((reference.tenant, reference.model), [])
        number: int | None = len(versions)
        if reference.tag is not None:
            record = self.tags.get(str(reference))
            number = record.version if record else None
        elif reference.version is not None:
            number = reference.version
        if not number or number > len(versions):
            raise NotFound("no_version", str(reference))
        return versions[number - 1]

    def signed(self, reference: Reference, manifest: Manifest) -> SignedVersion:
        name = f"{manifest.tenant}/{manifest.model}"
        record = ModelRecord(
            vault=self.keys.vault,
            tenant=manifest.tenant,
            model=manifest.model,
            owner="owner",
            classification="internal",
            serial=self.serials.get(name, 1),
            created_at=WHEN,
        )
        tag = self.tags[str(reference)] if reference.tag else None
        return SignedVersion(
            model=self.keys.sign("record", MODEL_TYPE, encode(record)),
            manifest=self._envelope(manifest),
            tag=None if tag is None else self.keys.sign("record", TAG_TYPE, encode(tag)),
        )

    def _envelope(self, manifest: Manifest) -> Envelope:
        return self.keys.sign("manifest", PAYLOAD_TYPE, manifest.to_bytes())


def encode(record: ModelRecord | TagRecord) -> bytes:
    from modelvault import canonical

    return canonical.encode(record)


def context(
    broker: HonestBroker,
    *,
    store: Store | None = None,
    pins: Pins | None = None,
    clock: Callable[[], int] = lambda: 1_000_000,
) -> Context:
    return Context(
        broker=broker,  # type: ignore[arg-type]
        steward=broker,  # type: ignore[arg-type]
        places=Direct(store or Store()),  # type: ignore[arg-type]
        credentials=Credentials(lambda key_hash: f"token-for-{key_hash}", "tests"),
        trust=broker.keys.trust(),
        pins=pins or Pins(None, broker.keys.vault),
        clock=clock,
        threads=1,
    )
