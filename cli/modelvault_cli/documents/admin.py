"""Documents about the vault itself, its policies, and who is asking."""

from __future__ import annotations

import msgspec

from modelvault.client.migrate import ModelMoved
from modelvault.lease import PolicyRevision
from modelvault.policy.diff import DataChange, DecisionChange, ModuleChange
from modelvault.record import Entry
from modelvault_cli.documents.base import Document, Obligations


class Init(Document, frozen=True, kw_only=True):
    """`init`: the new vault."""

    vault: str
    home: str
    root_key: str
    policy_revision: str


class Founded(Document, frozen=True, kw_only=True):
    """`found`: the new vault, and the key in PEM that OPA verifies its bundles with."""

    vault: str
    trust: str
    policy_revision: str
    admins: tuple[str, ...]
    opa_key: str | None


class Migrated(Document, frozen=True, kw_only=True):
    """`migrate schema`: the ledger's schema version before and after."""

    before: int
    after: int


class MigratedVault(Document, frozen=True, kw_only=True):
    """`migrate vault`: the two vaults, and each model as it now is in the second; `size` is that of
    what was copied now."""

    source: str
    destination: str
    models: tuple[ModelMoved, ...]
    size: int


class TrustedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key of a trust file: what it signs, and since when it signs nothing new."""

    purpose: str
    keyid: str
    retired: str | None


class Trust(Document, frozen=True, kw_only=True):
    """`trust export`, `pin`, `update` and `rotate`: the trust file; `sha256` is over its bytes as
    `trust export` writes them."""

    vault: str
    serial: int
    sha256: str
    file: str
    keys: tuple[TrustedKey, ...]


class PinnedVault(msgspec.Struct, frozen=True, kw_only=True):
    """Another vault whose trust file is pinned; `sha256` as in Trust."""

    vault: str
    serial: int
    sha256: str


class Pins(Document, frozen=True, kw_only=True):
    """`trust pins`: the vaults that may give to this home and get from it."""

    pins: tuple[PinnedVault, ...]


class Unpinned(Document, frozen=True, kw_only=True):
    """`trust unpin`: the vault that may no longer."""

    vault: str


class Token(Document, frozen=True, kw_only=True):
    """`token mint`."""

    token: str
    lifetime_s: int


class Who(Document, frozen=True, kw_only=True):
    """`whoami`: the caller as the vault sees it."""

    id: str
    issuer: str
    groups: tuple[str, ...]
    bound_by: str
    issued_at: str
    expires_at: str


class LoggedIn(Document, frozen=True, kw_only=True):
    """`login`: where, until when the first token is good, and whether new ones come by
    themselves."""

    issuer: str
    expires_at: str
    renewable: bool


class LoggedOut(Document, frozen=True, kw_only=True):
    """`logout`: whether somebody was logged in, and whether the provider was told."""

    was_logged_in: bool
    revoked: bool


class Collected(Document, frozen=True, kw_only=True):
    """`gc`: what was removed, or would be."""

    dry_run: bool
    uploads: int
    versions: int
    objects: int
    bytes: int


class Audit(Document, frozen=True, kw_only=True):
    """`audit`: some entries, oldest first, and the seqs to go on with: `--after` the `next` one
    (null: that was the last), `--before` the `previous` one (null: that was the first)."""

    entries: tuple[Entry, ...]
    next: int | None
    previous: int | None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One check of `doctor`: `status` is `ok`, `warning` or `failed`; `mend` says what to do."""

    check: str
    status: str
    found: str
    mend: str = ""


class Checkup(Document, frozen=True, kw_only=True):
    """`doctor`: all findings; `healthy` is false when one of them failed."""

    healthy: bool
    findings: tuple[Finding, ...]


class CaseFailure(msgspec.Struct, frozen=True, kw_only=True):
    """A case that got another answer than it should; both as JSON text."""

    file: str
    name: str
    expected: str
    got: str


class PolicyTest(Document, frozen=True, kw_only=True):
    """`policy test`: how many cases were asked of which revision, and those that failed."""

    revision: str
    cases: int
    failures: tuple[CaseFailure, ...]


class PolicyFinding(msgspec.Struct, frozen=True, kw_only=True):
    """A mistake in a policy file; line 0 means the file as a whole."""

    file: str
    line: int
    code: str
    text: str


class PolicyCheck(Document, frozen=True, kw_only=True):
    """`policy check`: all findings; none means that all is well."""

    findings: tuple[PolicyFinding, ...]


class Explained(Document, frozen=True, kw_only=True):
    """`policy explain`: what the policy would say."""

    action: str
    target: str
    allowed: bool
    reasons: tuple[str, ...]
    obligations: Obligations
    revision: str
    decision_id: str


class Published(Document, frozen=True, kw_only=True):
    """`policy publish`: the revision that is in force, or would be."""

    dry_run: bool
    revision: str


class PolicyRevisions(Document, frozen=True, kw_only=True):
    """`policy revisions`: what the broker keeps, newest first."""

    revisions: tuple[PolicyRevision, ...]


class PolicyFetched(Document, frozen=True, kw_only=True):
    """`policy fetch`: the folder that was written, and the revision that it holds."""

    folder: str
    revision: str


class PolicyDiff(Document, frozen=True, kw_only=True):
    """`policy diff`: two revisions, and what differs between them."""

    before: str
    after: str
    modules: tuple[ModuleChange, ...]
    data: tuple[DataChange, ...]
    decisions: tuple[DecisionChange, ...]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A step of `demo`: what was seen, whether that was expected, and how long it took."""

    title: str
    ok: bool
    seen: str
    elapsed_ms: int


class Demo(Document, frozen=True, kw_only=True):
    """`demo`: all steps, and the audit trail that they left."""

    passed: bool
    steps: tuple[Step, ...]
    entries: tuple[Entry, ...]
    kept: str | None
