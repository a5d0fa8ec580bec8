"""Whether a lease answers its ask. Decided here: values in, values out or IntegrityError.

A broker may answer with anything at all. What counts is what this client asked, the documents
that its pinned trust file verifies, and that the sealed keys open under exactly these.
"""

from __future__ import annotations

from modelvault import binding
from modelvault.access import Obligations
from modelvault.artifact.trust import Verified
from modelvault.errors import IntegrityError
from modelvault.lease import Lease, LeaseAsk
from modelvault.manifest import FileEntry
from modelvault.policy import patterns

# What client and loader can keep. Not taken from the types that the policy knows: a new one must
# not be promised before somebody has taught the loader to keep it.
FULFILS = (
    "allow_pickle",
    "files",
    "grace_s",
    "isolated_memory",
    "max_bytes_per_day",
    "max_concurrent_leases",
    "max_total_s",
    "max_ttl_s",
    "memory_only",
    "terminate_on_revoke",
)


def granted_files(ask: LeaseAsk, lease: Lease, verified: Verified) -> tuple[FileEntry, ...]:
    """The manifest's entries of the granted paths, in the lease's order.

    Raises IntegrityError (`not_what_was_asked`) when the lease is of another model, version or
    manifest than was verified, or names a path that the manifest doesn't have, that wasn't asked
    for, that its own obligations leave out, or twice.
    """
    manifest = verified.manifest
    answered = (lease.tenant, lease.model, lease.version, lease.manifest)
    if answered != (manifest.tenant, manifest.model, manifest.version, verified.digest):
        raise _refuse(ask, "the lease is of another version than its documents")
    entries = {entry.path: entry for entry in manifest.files}
    if not lease.paths or len(set(lease.paths)) != len(lease.paths):
        raise _refuse(ask, "no paths, or one twice")
    for path in lease.paths:
        if path not in entries or not _asked(ask, path) or not _allowed(lease.obligations, path):
            raise _refuse(ask, f"it grants {path[:120]!r}")
    return tuple(entries[path] for path in lease.paths)


def info(ask: LeaseAsk, lease: Lease, verified: Verified) -> bytes:
    """The HPKE info, from our own ask and the verified manifest; of the lease only its id."""
    manifest = verified.manifest
    return binding.info(
        "lease",
        manifest.vault,
        lease.id,
        manifest.tenant,
        manifest.model,
        manifest.version,
        verified.digest,
        ask.purpose,
        lease.paths,
        ask.recipient,
        ask.nonce,
    )


def _asked(ask: LeaseAsk, path: str) -> bool:
    return ask.files is None or path in ask.files


def _allowed(obligations: Obligations, path: str) -> bool:
    return obligations.files is None or patterns.matches(path, obligations.files)


def _refuse(ask: LeaseAsk, why: str) -> IntegrityError:
    return IntegrityError(
        "not_what_was_asked",
        f"the answer to the ask for {ask.reference} doesn't fit it: {why}",
        "don't trust this broker: ask who runs the vault",
    )
