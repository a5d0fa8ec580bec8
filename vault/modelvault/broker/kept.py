"""The policies that a service keeps for all its brokers: signed, and verified whenever one counts.

A kept policy is two things in one: a record under the vault's `bundle` key, which says that this
revision may be used, and the archive that OPA loads. Whoever can write to the ledger can neither
add a policy nor alter one: the revision is the hash of the contents, and the record is signed.
"""

from __future__ import annotations

from functools import partial

import msgspec

from modelvault import canonical
from modelvault.clock import to_text
from modelvault.crypto import dsse
from modelvault.crypto.dsse import Envelope
from modelvault.errors import Conflict, InvalidRequest, ModelVaultError, NotFound, Unavailable
from modelvault.lease import PolicyBundle, PolicyRevision
from modelvault.policy import archive
from modelvault.policy import bundle as bundles
from modelvault.policy.bundle import Bundle
from modelvault.ports.keys import BundleSigner, Signer
from modelvault.ports.policy import PolicyShelf
from modelvault.record import POLICY_TYPE, PolicyRecord, TrustFile

MAX_KEPT = 4 * bundles.MAX_BYTES


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One policy on the shelf."""

    record: Envelope
    archive: bytes


class KeptPolicies:
    """Policies on a shelf that all brokers share. Thread-safe.

    `opa` signs the archives where OPA servers load them; without it they are for engines in the
    process alone.
    """

    def __init__(
        self,
        trust: TrustFile,
        shelf: PolicyShelf,
        signer: Signer,
        opa: BundleSigner | None = None,
    ) -> None:
        self._trust = trust
        self._shelf = shelf
        self._signer = signer
        self._opa = opa

    def keep(self, policy: PolicyBundle) -> str:
        """Sign a policy and put it on the shelf; its revision. Idempotent.

        Raises InvalidRequest (`bad_policy`) for data that its schema refuses: a limit under a
        mistyped name would be no limit.
        """
        bundle = _bundle(policy)
        revision = bundle.revision
        if self._stands(revision):
            return revision
        kept = Kept(
            record=self._record(revision),
            archive=archive.pack(bundle, None if self._opa is None else self._opa.sign),
        )
        try:
            self._shelf.put_bundle(revision, canonical.encode(kept))
        except Conflict:  # another broker kept it at the same time, under a signature of its own
            self.bundle(revision)
        return revision

    def bundle(self, revision: str) -> Bundle:
        """The policy of that revision, verified.

        Raises Unavailable (`policy_unavailable`) when it isn't there or isn't what was signed: an
        altered shelf is an outage, neither a grant nor a deny.
        """
        try:
            return archive.unpack(self._kept(revision).archive).at(revision)
        except Unavailable:
            raise
        except ModelVaultError as failure:
            raise _unreadable(revision, failure.message) from None

    def archive(self, revision: str) -> bytes:
        """The archive that OPA loads. OPA verifies it by itself. Errors as `bundle`."""
        try:
            return self._kept(revision).archive
        except Unavailable:
            raise
        except ModelVaultError as failure:
            raise _unreadable(revision, failure.message) from None

    def check_kept(self, revision: str) -> None:
        """Raises NotFound (`no_policy`). For who names a revision; what decides must not ask it:
        a job's renewal would take a NotFound for a no."""
        try:
            self._shelf.bundle(revision)
        except NotFound:
            raise NotFound(
                "no_policy",
                f"no policy {revision[:19]}… is kept",
                "`modelvault policy revisions` lists those that are",
            ) from None

    def read(self, revision: str) -> PolicyBundle:
        """The policy as admins see it. Raises NotFound (`no_policy`)."""
        self.check_kept(revision)
        bundle = self.bundle(revision)
        data = msgspec.json.format(canonical.dumps(bundle.data), indent=2)
        return PolicyBundle(modules=bundle.modules, data=data.decode())

    def revisions(self, current: str | None) -> tuple[PolicyRevision, ...]:
        """What is on the shelf, newest first."""
        return tuple(
            PolicyRevision(revision=revision, kept_at=to_text(at), current=revision == current)
            for revision, at in self._shelf.bundles()
        )

    def _stands(self, revision: str) -> bool:
        try:
            self._shelf.bundle(revision)
        except NotFound:
            return False
        self.bundle(revision)
        return True

    def _record(self, revision: str) -> Envelope:
        record = PolicyRecord(vault=self._trust.vault, revision=revision)
        return dsse.sign(
            POLICY_TYPE, canonical.encode(record), partial(self._signer.sign, "bundle")
        )

    def _kept(self, revision: str) -> Kept:
        kept = canonical.decode(
            self._shelf.bundle(revision), Kept, limit=MAX_KEPT, what="a kept policy"
        )
        payload = dsse.verify(
            kept.record, POLICY_TYPE, self._trust.keys_for("bundle"), "a kept policy's record"
        )
        record = canonical.decode(payload, PolicyRecord, limit=4096, what="a policy record")
        if (record.vault, record.revision) != (self._trust.vault, revision):
            raise _unreadable(revision, "its record is of another policy or vault")
        return kept


def _bundle(policy: PolicyBundle) -> Bundle:
    if sum(map(len, policy.modules.values())) + len(policy.data) > bundles.MAX_BYTES:
        raise InvalidRequest("bad_policy", "the policy is too large", "it may have 8 MiB")
    names = [path for path in policy.modules if not _is_module(path)]
    if names:
        raise InvalidRequest(
            "bad_policy",
            f"{names[0][:80]!r} isn't a module's path",
            "modules are modelvault/... and site/..., and end with .rego",
        )
    from modelvault.policy.check import check_publishable  # with jsonschema, which few need

    check_publishable(policy.data, policy.modules.values())
    return Bundle(modules=dict(policy.modules), data=bundles.parse_data(policy.data.encode()))


def _is_module(path: str) -> bool:
    parts = path.split("/")
    return (
        path.isascii()
        and path.isprintable()
        and len(path) <= 100  # what a tar header holds
        and path.endswith(".rego")
        and len(parts) > 1
        and parts[0] in {"modelvault", "site"}
        and not {"", ".", ".."}.intersection(parts)
    )


def _unreadable(revision: str, why: str) -> Unavailable:
    return Unavailable(
        "policy_unavailable",
        f"the policy {revision[:19]}… can't be used: {why}",
        "publish it again with `modelvault policy publish`, or roll back to one that stands",
    )
