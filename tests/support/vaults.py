"""A whole vault in a temporary folder: the real broker over the real embedded adapters.

    vault = make(tmp_path)
    vault.create("minilm")
    vault.push("minilm", {"model.bin": b"weights"})
    assert vault.load("minilm") == {"model.bin": b"weights"}

Segments are 64 bytes, so that small files have many. The clock is `vault.clock` and stands still
until a test moves it. The policy is a Python function unless a bundle is given; every port can be
watched, or broken at any call, through the `Spy` around it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modelvault import binding, clock
from modelvault.access import Caller, Evaluation
from modelvault.adapters.issuers_static import StaticIssuers, ed25519_keys
from modelvault.adapters.keys_local import KeyFile, LocalKeyring
from modelvault.adapters.ledger_sql.ledger import SqlLedger
from modelvault.adapters.objects_folder import FolderStore
from modelvault.adapters.policy_regorus import RegorusEngine
from modelvault.artifact import trust as trusting
from modelvault.artifact.content import Tagger
from modelvault.artifact.reader import FileReader
from modelvault.artifact.trust import Seen
from modelvault.artifact.writer import encrypt_file
from modelvault.broker.service import LocalBroker
from modelvault.broker.terms import Terms
from modelvault.client.keys import PushKeys
from modelvault.clock import to_text
from modelvault.crypto import derive, dsse, hpke
from modelvault.crypto.floe import Geometry
from modelvault.crypto.hpke import RecipientKey
from modelvault.crypto.secret import Secret
from modelvault.errors import Unavailable
from modelvault.identity.binding import bound_audience, key_hash, plain_audience
from modelvault.identity.issuer import Issuer, local_issuer
from modelvault.identity.mint import mint
from modelvault.lease import Lease, LeaseAsk, Recipient
from modelvault.policy.bundle import Bundle
from modelvault.ports.policy import PolicyEngine
from modelvault.record import Entry, TrustFile, TrustKey
from modelvault.reference import Reference
from modelvault.upload import (
    CompareAsk,
    DeclaredFile,
    Draft,
    DraftFile,
    Published,
    PushAsk,
    TaggedFile,
    Upload,
)
from support.empty_ledger import fresh_ledger

SEGMENT = 64
REVISION = "sha256:" + "01" * 32
FULFILS = ("allow_pickle", "files", "grace_s", "max_bytes_per_day", "max_concurrent_leases",
           "isolated_memory", "max_total_s", "max_ttl_s", "memory_only",
           "terminate_on_revoke")  # fmt: skip

Rule = Callable[[dict[str, Any]], object]


class Clock:
    """Wall clock in milliseconds that moves only when it is told to."""

    def __init__(self, ms: int) -> None:
        self.ms = ms

    def __call__(self) -> int:
        return self.ms

    def advance(self, seconds: float) -> None:
        self.ms += int(seconds * 1000)


class Crash(BaseException):
    """The process dies here: nothing that catches errors catches this."""


class Spy:
    """A port with a list of the calls that it got, and hooks before and after each.

    `before(name)` and `after(name)` may raise; `calls` holds the names of finished and failed
    calls alike.
    """

    def __init__(self, port: object) -> None:
        self._port = port
        self.calls: list[str] = []
        self.before: Callable[[str], None] = _nothing
        self.after: Callable[[str], None] = _nothing

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            self.before(name)
            result = found(*args, **kwargs)
            self.after(name)
            return result

        return call

    def count(self, name: str) -> int:
        return self.calls.count(name)


def _nothing(_name: str) -> None:
    pass


def crash_at(name: str, nth: int = 1) -> Callable[[str], None]:
    """A hook that dies at the nth call of `name`."""
    left = [nth]

    def hook(called: str) -> None:
        if called == name:
            left[0] -= 1
            if left[0] == 0:
                raise Crash(name)

    return hook


def crash_at_call(nth: int) -> Callable[[str], None]:
    """A hook that dies at the nth call, whatever it is."""
    left = [nth]

    def hook(called: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Crash(called)

    return hook


def obligation(kind: str, value: object) -> dict[str, object]:
    return {"id": f"test:{kind}", "type": kind, "properties": {"value": value}}


def allow(*obligations: dict[str, object], reasons: Sequence[str] = ("grant:test",)) -> object:
    context = {"reasons": list(reasons), "obligations": list(obligations)}
    return {"decision": True, "context": context}


def deny(*reasons: str) -> object:
    return {"decision": False, "context": {"reasons": list(reasons), "obligations": []}}


class PlainPolicy:
    """A policy engine that is a Python function; `asked` holds the documents it got."""

    def __init__(self, rule: Rule, revision: str = REVISION) -> None:
        self.rule = rule
        self.revision = revision
        self.asked: list[dict[str, Any]] = []
        self.closed = False

    def evaluate(self, document: dict[str, Any]) -> Evaluation:
        self.asked.append(document)
        return Evaluation(self.rule(document), self.revision, secrets.token_hex(8))

    def close(self) -> None:
        self.closed = True


@dataclass
class Job:
    """A lease that was taken, with what opens it."""

    ask: LeaseAsk
    key: RecipientKey
    lease: Lease

    @property
    def key_hash(self) -> str:
        return key_hash(self.key.suite, self.key.public)


@dataclass
class Vault:
    """Everything of one vault, and the everyday walks of a client over it."""

    root: Path
    id: str
    clock: Clock
    keyring: LocalKeyring
    keys: Spy
    ledger: Spy
    store: Spy
    policy: PlainPolicy
    issuer: Issuer
    trust: TrustFile
    broker: LocalBroker
    engines: dict[str, PolicyEngine]
    digest_alg: str
    terms: Terms
    closing: list[Callable[[], None]] = field(default_factory=list)

    def close(self) -> None:
        for close in reversed(self.closing):
            close()

    # identities
    def token(
        self,
        sub: str = "alice",
        *,
        groups: Sequence[str] = ("admins",),
        bound_to: str | None = None,
        lifetime_s: int = 600,
        claims: Mapping[str, object] | None = None,
        audience: str | None = None,
    ) -> str:
        plain = plain_audience(self.id) if bound_to is None else bound_audience(self.id, bound_to)
        return mint(
            self.keyring,
            self.issuer,
            sub=sub,
            groups=groups,
            audience=audience or plain,
            lifetime_s=lifetime_s,
            now=self.clock(),
            claims=claims or {},
        )

    def caller(self, sub: str = "alice", **options: Any) -> Caller:
        return Caller(token=self.token(sub, **options), client="tests")

    # pushing
    def create(
        self, name: str, *, owner: str | None = None, classification: str = "internal"
    ) -> None:
        self.broker.create(self.caller(), name, owner=owner, classification=classification)

    def open(
        self, name: str, files: Mapping[str, bytes], *, caller: Caller | None = None
    ) -> tuple[Upload, PushKeys]:
        """Open a version; its keys by path."""
        key, recipient, nonce = one_time()
        ask = push_ask(name, files, recipient, nonce)
        upload = self.broker.open_version(caller or self.caller(), ask)
        paths = [file.path for file in ask.files]
        info = binding.info(
            "push", self.id, upload.id, upload.tenant, upload.model, 0, None, "push", paths,
            recipient, nonce,
        )  # fmt: skip
        return upload, split_push(key.open(upload.sealed, info), paths)

    def opened_keys(
        self, upload: Upload, ask: Any, key: RecipientKey, paths: Sequence[str]
    ) -> PushKeys:
        """The keys of an upload that was opened or resumed for `key`."""
        info = binding.info(
            "push", self.id, upload.id, upload.tenant, upload.model, 0, None, "push", paths,
            ask.recipient, ask.nonce,
        )  # fmt: skip
        return split_push(key.open(upload.sealed, info), paths)

    def put(self, upload: Upload, path: str, plain: bytes, keys: PushKeys) -> DraftFile:
        """Encrypt and put one file, as the client does."""
        names = (f"objects/{secrets.token_hex(16)}", f"objects/{secrets.token_hex(16)}")

        def read_into(offset: int, buffer: memoryview) -> None:
            buffer[:] = plain[offset : offset + len(buffer)]

        encrypted = encrypt_file(
            read_into,
            len(plain),
            keys.files[path],
            keys.contents[path],
            derive.file_aad(upload.artifact, path),
            Geometry(upload.segment_length),
            upload.digest_alg,
            self.store,
            names,
            lambda _done: None,
        )
        return DraftFile(
            path=path,
            size=len(plain),
            object=names[0],
            leaves=names[1],
            digest=encrypted.digest,
            content=encrypted.content,
        )

    def tag(self, upload: Upload, path: str, plain: bytes, keys: PushKeys) -> TaggedFile:
        """A file's content tag, as the client makes it to compare."""
        geometry = Geometry(upload.segment_length)
        tagger = Tagger(upload.digest_alg, keys.contents[path], geometry, len(plain))
        for position in range(geometry.segments(len(plain))):
            at = position * geometry.payload
            tagger.block(position, plain[at : at + geometry.payload])
        return TaggedFile(path=path, content=tagger.tag())

    def upload(
        self, name: str, files: Mapping[str, bytes], *, caller: Caller | None = None
    ) -> tuple[Upload, Draft]:
        """All of a push but the commit."""
        upload, keys = self.open(name, files, caller=caller)
        put = tuple(self.put(upload, path, files[path], keys) for path in sorted(files))
        return upload, Draft(files=put)

    def push(
        self, name: str, files: Mapping[str, bytes], *, caller: Caller | None = None,
        **draft: Any,
    ) -> Published:  # fmt: skip
        caller = caller or self.caller()
        upload, plain = self.upload(name, files, caller=caller)
        return self.broker.commit(caller, upload.id, Draft(files=plain.files, **draft))

    def push_again(
        self, name: str, files: Mapping[str, bytes], *, caller: Caller | None = None
    ) -> Published:
        """A push that uploads only what the broker doesn't find unchanged, as the client does."""
        caller = caller or self.caller()
        upload, keys = self.open(name, files, caller=caller)
        tags = tuple(self.tag(upload, path, files[path], keys) for path in upload.candidates)
        compared = self.broker.compare(caller, upload.id, CompareAsk(files=tags))
        same = {entry.path for entry in compared.files}
        put = (self.put(upload, path, files[path], keys) for path in sorted(files)
               if path not in same)  # fmt: skip
        unchanged = tuple(tag for tag in tags if tag.path in same)
        return self.broker.commit(caller, upload.id, Draft(files=tuple(put), unchanged=unchanged))

    # loading
    def ask(self, reference: str, **changes: Any) -> tuple[LeaseAsk, RecipientKey]:
        key, recipient, nonce = one_time(changes.pop("suite", hpke.CLASSIC))
        fields: dict[str, Any] = {
            "reference": reference,
            "purpose": "inference",
            "nonce": nonce,
            "recipient": recipient,
            "fulfils": FULFILS,
        }
        return LeaseAsk(**(fields | changes)), key

    def lease(
        self, reference: str, *, caller: Caller | None = None, broker: LocalBroker | None = None,
        **changes: Any,
    ) -> Job:  # fmt: skip
        ask, key = self.ask(reference, **changes)
        lease = (broker or self.broker).lease(caller or self.caller(), ask)
        return Job(ask, key, lease)

    def read(self, job: Job) -> dict[str, bytes]:
        """What a lease opens, with everything verified as a loader does."""
        reference = Reference.parse(job.ask.reference)
        verified = trusting.verify(job.lease.signed, reference, self.trust, Seen())
        manifest = verified.manifest
        info = binding.info(
            "lease", self.id, job.lease.id, manifest.tenant, manifest.model, manifest.version,
            verified.digest, job.ask.purpose, job.lease.paths, job.ask.recipient, job.ask.nonce,
        )  # fmt: skip
        keys = split(job.key.open(job.lease.sealed, info), job.lease.paths)
        found: dict[str, bytes] = {}
        for path in job.lease.paths:
            entry = manifest.file(path)
            assert entry is not None
            reader = FileReader(self.store, entry, keys[path], manifest.digest_alg, 1)
            buffer = bytearray(reader.size)
            reader.read_into(0, memoryview(buffer))
            reader.wipe()
            found[path] = bytes(buffer)
        return found

    def load(self, reference: str, **options: Any) -> dict[str, bytes]:
        return self.read(self.lease(reference, **options))

    # looking
    def entries(self, action: str | None = None) -> list[Entry]:
        found = list(self.ledger.entries(after=0, limit=1000))
        return [one for one in found if action is None or one.action == action]

    def objects(self, prefix: str = "objects/") -> list[str]:
        return [info.name for info in self.store.list(prefix)]

    def kek(self, name: str) -> str:
        reference = Reference.parse(name)
        return derive.kek_name(self.id, reference.tenant, reference.model)

    def publish(self, rule: Rule, revision: str) -> PlainPolicy:
        """Make a policy known to the broker's factory, not yet in force."""
        policy = PlainPolicy(rule, revision)
        self.engines[revision] = policy
        return policy

    def another_broker(self, **changes: Any) -> LocalBroker:
        """Another broker over the same ledger, store and keys; ports can be replaced."""
        broker = LocalBroker(**(self._ports() | changes))
        self.closing.append(broker.close)
        return broker

    def with_terms(self, **changes: int) -> LocalBroker:
        from msgspec.structs import replace as changed

        return self.another_broker(terms=changed(self.terms, **changes))

    def _ports(self) -> dict[str, Any]:
        return {
            "vault": self.id,
            "ledger": self.ledger,
            "objects": self.store,
            "keys": self.keys,
            "admin": self.keys,
            "signer": self.keyring,
            "trust": self.trust,
            "engine_for": self._engine_for,
            "issuers": (self.issuer,),
            "issuer_keys": StaticIssuers(
                {self.issuer.iss: ed25519_keys(self.keyring.public_key("token"))}
            ),
            "digest_alg": self.digest_alg,
            "segment_length": SEGMENT,
            "terms": self.terms,
        }

    def _engine_for(self, revision: str) -> PolicyEngine:
        engine = self.engines.get(revision)
        if engine is None:
            raise Unavailable("policy_unavailable", f"no bundle of revision {revision}")
        return engine


def make(
    root: Path,
    *,
    rule: Rule = lambda _document: allow(),
    bundle: Bundle | None = None,
    digest_alg: str = "blake3",
    terms: Terms | None = None,
    ledger_url: str | None = None,
) -> Vault:
    """A new vault under `root`. With a `bundle`, the real engine decides instead of `rule`; with a
    `ledger_url` its ledger lies there.

    The caller closes it, or uses `opened`.
    """
    now = Clock(clock.utc_ms())
    vault = secrets.token_hex(16)
    source = KeyFile(root / "root.key")
    LocalKeyring.make(root / "keyring.json", source)
    keyring = LocalKeyring(root / "keyring.json", source)
    if ledger_url is None:
        ledger = fresh_ledger(root / "ledger.db", now)
    else:
        ledger = SqlLedger.create(ledger_url, now)
    store = FolderStore(root)
    policy = PlainPolicy(rule)
    engines: dict[str, PolicyEngine] = {REVISION: policy}
    revision = REVISION
    made = Vault(
        root=root,
        id=vault,
        clock=now,
        keyring=keyring,
        keys=Spy(keyring),
        ledger=Spy(ledger),
        store=Spy(store),
        policy=policy,
        issuer=local_issuer(vault),
        trust=trust_of(keyring, vault, now()),
        broker=None,  # type: ignore[arg-type]
        engines=engines,
        digest_alg=digest_alg,
        terms=terms or Terms(),
        closing=[keyring.close, ledger.close, store.close],
    )
    if bundle is not None:
        revision = bundle.revision
        engines[revision] = RegorusEngine(bundle.modules, bundle.document, revision)
    ledger.set_policy_revision(revision, opening_entry(now()))
    return replace(made, broker=made.another_broker())


@contextmanager
def opened(root: Path, **options: Any) -> Iterator[Vault]:
    """`make`, closed at the end."""
    vault = make(root, **options)
    try:
        yield vault
    finally:
        vault.close()


def opening_entry(now: int) -> Entry:
    return Entry(
        id=secrets.token_hex(16), at=to_text(now), actor="init", action="write_policy",
        outcome="done",
    )  # fmt: skip


def trust_of(keyring: LocalKeyring, vault: str, now: int) -> TrustFile:
    keys = []
    for purpose in ("manifest", "record", "log", "bundle"):
        public = keyring.public_key(purpose)
        keys.append(
            TrustKey(
                keyid=dsse.keyid(public),
                purpose=purpose,
                public_key=public,
                valid_from=to_text(now),
            )
        )
    return TrustFile(vault=vault, keys=tuple(keys), serial=1)


def one_time(suite: str = hpke.CLASSIC) -> tuple[RecipientKey, Recipient, bytes]:
    key = hpke.generate(suite)
    return key, Recipient(suite, key.public), os.urandom(16)


def push_ask(name: str, files: Mapping[str, bytes], recipient: Recipient, nonce: bytes) -> PushAsk:
    declared = tuple(DeclaredFile(path, len(files[path])) for path in sorted(files))
    return PushAsk(reference=name, files=declared, nonce=nonce, recipient=recipient)


def split(keys: Secret, paths: Sequence[str]) -> dict[str, Secret]:
    whole = keys.reveal()
    assert len(whole) == 32 * len(paths)
    return {path: Secret.copy_of(whole[32 * at : 32 * at + 32]) for at, path in enumerate(paths)}


def split_push(keys: Secret, paths: Sequence[str]) -> PushKeys:
    """FileKeys in the order of the paths, and content keys behind them."""
    whole = keys.reveal()
    half = 32 * len(paths)
    parts = (Secret.copy_of(whole[:half]), Secret.copy_of(whole[half:]))
    return PushKeys(files=split(parts[0], paths), contents=split(parts[1], paths))
