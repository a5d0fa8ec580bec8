"""A question to the policy, and its answer."""

from __future__ import annotations

from typing import Any, Literal, NoReturn

import msgspec

Action = Literal[
    "create", "classify", "push", "load", "renew", "list", "show", "pull", "export", "tag",
    "delete", "rotate", "revoke", "explain", "read_leases", "read_audit", "write_policy", "gc",
]  # fmt: skip

OBLIGATION_TYPES = frozenset(
    {
        "max_ttl_s",
        "max_total_s",
        "grace_s",
        "files",
        "memory_only",
        "isolated_memory",
        "terminate_on_revoke",
        "allow_pickle",
        "max_bytes_per_day",
        "max_concurrent_leases",
    }
)


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who a verified token says is asking.

    `id` is `<issuer's name>:<sub>` and unique in the vault; groups carry the issuer's name in
    front (`local:ml-engineers`). `bound_by` is `bearer` or `key`; `key_hash` is the bound key's
    base64url SHA-256 when it is `key`. `instance` tells one run of a workload from another (a
    pod's uid) where the token does; limits count for each by itself. Times are milliseconds since
    the epoch.
    """

    id: str
    issuer: str
    instance: str | None = None
    groups: tuple[str, ...]
    claims: dict[str, Any]
    bound_by: Literal["bearer", "key"] = "bearer"
    key_hash: str | None = None
    issued_at: int
    expires_at: int


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """A request's credential and where it came from. The repr never shows the token, and it can't
    be pickled."""

    token: str
    source_ip: str | None = None
    client: str = ""

    def __repr__(self) -> str:
        return f"<Caller from {self.source_ip or 'this process'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Caller can't be pickled: it holds a token")


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for, taken from verified documents alone. `created_by` is the id of the
    principal that made the version."""

    tenant: str
    id: str
    version: int | None = None
    manifest: str | None = None
    created_by: str | None = None
    owner: str | None = None
    classification: str | None = None
    labels: dict[str, str] = {}
    pickles: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    bytes: int | None = None


class AccessRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One question: who wants what, with which model, for what purpose, when.

    `now` is in milliseconds since the epoch. `destination` is the other vault that keys would be
    handed over to. `fulfils` lists the obligation types that the
    asking side can keep. `usage` is what the limits have counted so far.
    """

    principal: Principal
    action: Action
    resource: Resource
    now: int
    purpose: str | None = None
    purpose_bound_by: Literal["caller", "token"] = "caller"
    ticket: str | None = None
    destination: str | None = None
    source_ip: str | None = None
    client: str = ""
    fulfils: tuple[str, ...] = ()


class Evaluation(msgspec.Struct, frozen=True):
    """What an engine answered, unexamined: the document may be anything at all."""

    document: object
    revision: str
    decision_id: str


class Obligations(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """The strictest of each obligation that the policy gave; None means not limited.

    Seconds, bytes and counts are whole numbers; `files` are the only paths that may be had.
    `terminate_on_revoke` is how many seconds a process lives on after its lease's end. What isn't
    given is left out of documents: so a job from before an obligation was known reads all answers
    without it, and gets none with it, since its ask doesn't name it among what it fulfils.
    """

    max_ttl_s: int | None = None
    max_total_s: int | None = None
    grace_s: int | None = None
    files: tuple[str, ...] | None = None
    memory_only: bool = False
    isolated_memory: bool = False
    terminate_on_revoke: int | None = None
    allow_pickle: bool = False
    max_bytes_per_day: int | None = None
    max_concurrent_leases: int | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """A well-formed answer. `reasons` are codes: the grants that fired, or the denies."""

    allowed: bool
    reasons: tuple[str, ...]
    obligations: Obligations
    revision: str
    decision_id: str
