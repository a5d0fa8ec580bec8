"""May this lease be? Reads inside the transaction of a grant; refuses by raising."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Select, and_, bindparam, func, null, select

from modelvault.adapters.ledger_sql.room import no_version, of_model
from modelvault.adapters.ledger_sql.schema import charges, leases, models, revocations, versions
from modelvault.adapters.ledger_sql.writing import Write
from modelvault.catalog import LeaseRow, Limits
from modelvault.clock import to_text
from modelvault.errors import AccessDenied, Conflict, Unavailable

DAY_MS = 86_400_000

# A value, or the place for one in a statement that is made once.
Text = str | BindParameter[str]
Number = int | BindParameter[int]


def day_of(at: int) -> str:
    """The UTC day of a time, `2026-01-31`."""
    return to_text(at)[:10]


def standing(subject: Text, version: Text, at: Number) -> ColumnElement[bool]:
    """The revocations that stand at `at` for a subject or a version (`tenant/model@7`)."""
    hits = ((revocations.c.kind == "principal") & (revocations.c.target == subject)) | (
        (revocations.c.kind == "version") & (revocations.c.target == version)
    )
    return hits & (revocations.c.until.is_(None) | (revocations.c.until > at))


def plain(write: Write, lease: LeaseRow, limits: Limits) -> bool:
    """Whether nothing speaks against a new lease, found out by one statement.

    Where it is False, the checks below look at one thing after the other, and say what it is. The
    statement is made of the same conditions as they.
    """
    slots, most = limits.max_concurrent_leases, limits.max_bytes_per_day
    row = write.one(
        _FACTS[slots is not None, most is not None],
        {
            "ask_hash": lease.ask_hash,
            "tenant": lease.tenant,
            "model": lease.model,
            "version": lease.version,
            "manifest": lease.manifest,
            "subject": lease.subject,
            "instance": lease.instance,
            "target": f"{lease.tenant}/{lease.model}@{lease.version}",
            "at": lease.granted_at,
            "holder": lease.holder,
            "day": day_of(lease.granted_at),
        },
    )
    return (
        row is not None
        and not row.asked
        and bool(row.stands)
        and not row.revoked
        and write.revision == lease.revision
        and (slots is None or row.running < slots)
        and (most is None or row.charged + lease.bytes <= most)
    )


def check_same_ask(lease: LeaseRow, stands: LeaseRow) -> None:
    """One nonce and key get one answer: a lease for other files mustn't come out under its id."""
    if not (stands.ended_at is None and stands.expires_at > lease.granted_at):
        raise Conflict(
            "lease_ended",
            "this ask was answered with a lease that has ended",
            "ask again with a new nonce",
        )
    if _asked(lease) != _asked(stands):
        raise Conflict(
            "ask_reused",
            "this nonce and key were used for another ask, or what it names has changed",
            "ask again with a new nonce",
        )


def check_version(write: Write, lease: LeaseRow) -> None:
    """Raises NotFound (`no_version`) unless version and model stand, with that very manifest."""
    row = write.one(_version(lease.tenant, lease.model, lease.version, lease.manifest))
    if row is None:
        raise no_version(lease.tenant, lease.model, lease.version)


def check_revocations(write: Write, lease: LeaseRow, at: int) -> None:
    """Raises AccessDenied (`revoked`)."""
    version = f"{lease.tenant}/{lease.model}@{lease.version}"
    row = write.one(select(revocations).where(standing(lease.subject, version, at)))
    if row is not None:
        raise revoked(row.kind, row.target, row.until)


def revoked(kind: str, target: str, until: int | None) -> AccessDenied:
    """The refusal of what a revocation hits."""
    when = None if until is None else to_text(until)
    # A revocation is never taken back: only its end, another identity or version helps.
    if when is not None:
        hint = f"it ends by itself at {when}"
    elif kind == "version":
        hint = "nothing lifts it: name another version, or ask the model's owner for one"
    else:
        hint = "nothing lifts it: ask an admin of this vault for another identity"
    return AccessDenied(
        "revoked",
        f"the {kind} {target} is revoked" + (f" until {when}" if when else ""),
        hint,
        kind=kind,
        target=target,
        until=when,
    )


def check_revision(write: Write, revision: str) -> None:
    """Raises Unavailable (`policy_moved`) for a decision of a policy that doesn't count now."""
    if write.revision != revision:
        raise Unavailable(
            "policy_moved", "the policy was published anew during this request", "ask again"
        )


def check_slots(write: Write, lease: LeaseRow, limit: int | None) -> None:
    """Raises AccessDenied (`max_concurrent_leases`)."""
    if limit is None:
        return
    running = _running(lease.subject, lease.instance, lease.tenant, lease.model, lease.granted_at)
    expiries = [row[0] for row in write.all(select(leases.c.expires_at).where(running))]
    used = len(expiries)
    if used < limit:
        return
    # After the (used - limit + 1)th expiry one slot is free; with a limit of 0 there never is one.
    resets_at = to_text(sorted(expiries)[used - limit]) if limit > 0 else None
    raise AccessDenied(
        "max_concurrent_leases",
        f"{lease.subject} holds {used} running leases of {lease.tenant}/{lease.model};"
        f" the limit is {limit}" + (f"; one is free at {resets_at} at the latest" if limit else ""),
        "close a loaded model, or wait until a lease expires" if limit else "ask the model's owner",
        limit=limit,
        used=used,
        resets_at=resets_at,
    )


def check_bytes(write: Write, lease: LeaseRow, limit: int | None) -> None:
    """Raises AccessDenied (`max_bytes_per_day`)."""
    if limit is None:
        return
    used = charged(write, lease.holder, day_of(lease.granted_at))
    if used + lease.bytes <= limit:
        return
    resets_at = to_text((lease.granted_at // DAY_MS + 1) * DAY_MS)
    fits = lease.bytes <= limit
    raise AccessDenied(
        "max_bytes_per_day",
        f"{lease.bytes:,} bytes asked for; {lease.subject} has used {used:,} of {limit:,} bytes"
        f" today; the count starts anew at {resets_at}",
        f"wait until {resets_at}, or ask for fewer files"
        if fits
        else "ask for fewer files: this ask is over a whole day's limit",
        limit=limit,
        used=used,
        asked=lease.bytes,
        resets_at=resets_at,
    )


def charged(write: Write, subject: str, day: str) -> int:
    """Bytes charged to a subject on a UTC day."""
    row = write.one(charge_query(subject, day))
    return int(row[0]) if row else 0


def charge_query(subject: Text, day: Text) -> Select[tuple[int]]:
    """Asks for what was charged to a subject on a UTC day."""
    return select(func.coalesce(func.sum(charges.c.bytes), 0)).where(
        charges.c.subject == subject, charges.c.day == day
    )


def _version(tenant: Text, model: Text, version: Number, manifest: Text) -> Select[tuple[str]]:
    return (
        select(versions.c.digest)
        .join(models, of_model(models, tenant, model))
        .where(
            of_model(versions, tenant, model),
            versions.c.version == version,
            versions.c.digest == manifest,
            versions.c.hidden_at.is_(None),
            models.c.hidden_at.is_(None),
        )
    )


def _running(
    subject: Text, instance: Text | None, tenant: Text, model: Text, at: Number
) -> ColumnElement[bool]:
    return and_(
        leases.c.subject == subject,
        leases.c.instance.is_not_distinct_from(instance),
        of_model(leases, tenant, model),
        leases.c.ended_at.is_(None),
        leases.c.expires_at > at,
    )


def _facts(*, slots: bool, charged: bool) -> Select[tuple[Any, ...]]:
    """What speaks for and against a lease; what is counted only where a limit needs it."""
    tenant: BindParameter[str] = bindparam("tenant")
    model: BindParameter[str] = bindparam("model")
    subject: BindParameter[str] = bindparam("subject")
    at: BindParameter[int] = bindparam("at")
    asked = select(leases.c.id).where(leases.c.ask_hash == bindparam("ask_hash"))
    stands = _version(tenant, model, bindparam("version"), bindparam("manifest"))
    revoked = select(revocations.c.id).where(standing(subject, bindparam("target"), at))
    running = select(func.count()).where(
        _running(subject, bindparam("instance"), tenant, model, at)
    )
    bytes_ = charge_query(bindparam("holder"), bindparam("day"))
    return select(
        asked.exists().label("asked"),
        stands.exists().label("stands"),
        revoked.exists().label("revoked"),
        (running.scalar_subquery() if slots else null()).label("running"),
        (bytes_.scalar_subquery() if charged else null()).label("charged"),
    )


_FACTS = {
    (slots, charged): _facts(slots=slots, charged=charged)
    for slots in (False, True)
    for charged in (False, True)
}


def _asked(lease: LeaseRow) -> tuple[object, ...]:
    return (
        lease.subject, lease.key_hash, lease.bound, lease.tenant, lease.model, lease.version,
        lease.manifest, lease.purpose, lease.action, lease.paths, lease.bytes,
    )  # fmt: skip
