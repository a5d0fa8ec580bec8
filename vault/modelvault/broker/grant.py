"""What a lease may hold and for how long. Decisions only: values in, values out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from modelvault import canonical
from modelvault.access import Obligations
from modelvault.broker.terms import NEVER_MS
from modelvault.broker.verified import KnownVersion
from modelvault.catalog import LeaseRow, Limits
from modelvault.errors import Conflict, NotFound
from modelvault.lease import LeaseAsk
from modelvault.manifest import FileEntry
from modelvault.policy import patterns

PICKLE_REFUSED = "pickle_refused"
FILES_NOT_ALLOWED = "files_not_allowed"

HINTS = {
    PICKLE_REFUSED: "loading a pickle runs code: convert the file to safetensors and push it again",
    FILES_NOT_ALLOWED: "ask only for the files that the policy allows you, or name none",
}


def ask_hash(subject: str, ask: LeaseAsk) -> str:
    """What makes two asks one: subject, nonce and recipient key."""
    document = {
        "v": 1,
        "subject": subject,
        "nonce": ask.nonce.hex(),
        "suite": ask.recipient.suite,
        "recipient": hashlib.sha256(ask.recipient.public_key).hexdigest(),
    }
    return "sha256:" + hashlib.sha256(canonical.dumps(document)).hexdigest()


def asked_files(ask: LeaseAsk, version: KnownVersion) -> tuple[FileEntry, ...]:
    """The manifest's entries of the asked paths, in its order; all where none are named."""
    if ask.files is None:
        return version.manifest.files
    wanted = set(ask.files)
    return tuple(file for file in version.manifest.files if file.path in wanted)


def check_known(ask: LeaseAsk, files: Sequence[FileEntry]) -> None:
    """NotFound (`no_file`) for an asked path that the version doesn't have."""
    missing = set(ask.files or ()) - {file.path for file in files}
    if missing or not files:
        name = min(missing) if missing else ""
        raise NotFound(
            "no_file",
            f"{ask.reference} has no file {name[:120]!r}",
            f"see its files with `modelvault show {ask.reference}`",
        )


def permitted(
    files: Sequence[FileEntry], obligations: Obligations, *, named: bool
) -> tuple[FileEntry, ...]:
    """Those of `files` that the `files` obligation lets through.

    Empty when that leaves nothing, or when the asker `named` one that it leaves out: who asks for
    a file by name isn't served without it.
    """
    if obligations.files is None:
        return tuple(files)
    allowed = obligations.files
    kept = tuple(file for file in files if patterns.matches(file.path, allowed))
    return () if named and len(kept) < len(files) else kept


def holds_pickle(version: KnownVersion, paths: Sequence[str], obligations: Obligations) -> bool:
    """Whether a pickle is among the paths and the policy hasn't allowed pickles."""
    return not obligations.allow_pickle and not set(paths).isdisjoint(
        version.manifest.hints.pickles
    )


def ends(now: int, obligations: Obligations, default_ttl_s: int) -> tuple[int, int]:
    """(end of this grant, end of all renewals together), in milliseconds."""
    total = obligations.max_total_s
    total_until = NEVER_MS if total is None else min(now + total * 1000, NEVER_MS)
    return min(now + _ttl_ms(obligations, default_ttl_s), total_until), total_until


def renewed_until(row: LeaseRow, now: int, obligations: Obligations, default_ttl_s: int) -> int:
    """The end of a renewal. `max_total_s` counts from the first grant, by whichever is stricter:
    what stood then or what stands now. Not beyond `now` means that there is no more."""
    until = min(row.total_until, now + _ttl_ms(obligations, default_ttl_s))
    if obligations.max_total_s is not None:
        until = min(until, row.granted_at + obligations.max_total_s * 1000)
    return until


def limits(obligations: Obligations) -> Limits:
    """What admission has to count."""
    return Limits(
        max_bytes_per_day=obligations.max_bytes_per_day,
        max_concurrent_leases=obligations.max_concurrent_leases,
    )


def check_same(asked: LeaseRow, stands: LeaseRow) -> None:
    """A repeated ask gets the lease that stands only if it asks for the same.

    Raises Conflict (`ask_reused`): one nonce and key for two different asks, or a tag or policy
    that moved in between.
    """
    same = ("tenant", "model", "version", "manifest", "purpose", "action", "paths")
    if any(getattr(asked, name) != getattr(stands, name) for name in same):
        raise Conflict(
            "ask_reused",
            "this nonce and key were used for another ask, or its answer has changed since",
            "ask again with a fresh nonce and key",
        )


def remaining_s(row: LeaseRow, now: int) -> int:
    """Whole seconds that the lease still runs. Conflict (`lease_ended`) when it is under one."""
    seconds = (row.expires_at - now) // 1000
    if seconds < 1:
        raise Conflict("lease_ended", "the lease of this ask has run out", "ask anew")
    return seconds


def _ttl_ms(obligations: Obligations, default_ttl_s: int) -> int:
    longest = obligations.max_ttl_s
    return 1000 * (default_ttl_s if longest is None else min(longest, default_ttl_s))
