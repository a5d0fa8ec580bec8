"""What is sent where a call's arguments aren't a value of their own already.

Here is no more than the shape: what a text or a number may be is the broker's to say, and it says
the same to callers nearby. A request's size is bounded before any of this is looked at.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from modelvault.manifest import Count, Sha256
from modelvault.reference import DEFAULT_TENANT


class RenewAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `renew`: the base64url SHA-256 of the recipient key that the lease was asked with."""

    key_hash: str


class Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A reference alone."""

    reference: str


class ObjectsAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `lease_links`: the objects to read."""

    objects: tuple[str, ...]


class PullObjectsAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `pull_links`."""

    reference: str
    objects: tuple[str, ...]


class ListAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `list`, as a query."""

    tenant: str = DEFAULT_TENANT
    filter: str = ""
    limit: int = 100
    after: str = ""


class CreateAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `create`."""

    reference: str
    owner: str | None = None
    classification: str


class ClassifyAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `classify`."""

    reference: str
    owner: str | None = None
    classification: str | None = None


class TagAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `tag`."""

    reference: str
    tag: str


class DeleteAsk(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """Of `delete`: the tags of the version that may go with it."""

    reference: str
    tags: tuple[str, ...] = ()


class RevokeAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `revoke`: a `principal`, a `lease` or a `version`; `for_s` in seconds, None for good."""

    kind: str
    target: str
    reason: str
    for_s: int | None = None


class Ended(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many running leases a revocation ended."""

    ended: Count


class LeasesAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `leases`, as a query."""

    reference: str | None = None
    ended: bool = False
    limit: int = 100


class Subject(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A principal that somebody else is asked about. Times in milliseconds since the epoch."""

    id: str
    issuer: str
    instance: str | None = None
    groups: tuple[str, ...]
    claims: dict[str, Any]
    bound_by: Literal["bearer", "key"] = "bearer"
    key_hash: str | None = None
    issued_at: int
    expires_at: int


class ExplainAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `explain`."""

    action: str
    reference: str
    purpose: str | None = None
    subject: Subject | None = None
    destination: str | None = None


class EntriesAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `entries`, as a query."""

    after: int = 0
    limit: int = 100
    reference: str | None = None


class LastEntriesAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `last_entries`, as a query."""

    before: int | None = None
    limit: int = 100
    reference: str | None = None


class Revision(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `keep_policy` kept."""

    revision: Sha256


class PublishAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `publish_policy`."""

    revision: str


class PolicyAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `policy`, as a query; none means the one that counts."""

    revision: str | None = None


class GcAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `gc`."""

    dry_run: bool = False
