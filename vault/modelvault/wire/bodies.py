"""What is sent where a call's arguments aren't a value of their own already."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from modelvault.access import Action
from modelvault.lease import MAX_LINKS
from modelvault.manifest import Count, ObjectName, Positive, Sha256
from modelvault.reference import DEFAULT_TENANT

Text = Annotated[str, Meta(max_length=1024)]


class RenewAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `renew`: the base64url SHA-256 of the recipient key that the lease was asked with."""

    key_hash: Text


class Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A reference alone."""

    reference: Text


class ObjectsAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `lease_links`: the objects to read."""

    objects: Annotated[tuple[ObjectName, ...], Meta(max_length=MAX_LINKS)]


class PullObjectsAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `pull_links`."""

    reference: Text
    objects: Annotated[tuple[ObjectName, ...], Meta(max_length=MAX_LINKS)]


class ListAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `list`, as a query."""

    tenant: Text = DEFAULT_TENANT
    filter: Text = ""
    limit: Positive = 100
    after: Text = ""


class CreateAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `create`."""

    reference: Text
    owner: Text | None = None
    classification: Text


class ClassifyAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `classify`."""

    reference: Text
    owner: Text | None = None
    classification: Text | None = None


class TagAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `tag`."""

    reference: Text
    tag: Text


class RevokeAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `revoke`; `for_s` in seconds, None for good."""

    kind: Literal["principal", "lease", "version"]
    target: Text
    reason: Text
    for_s: Positive | None = None


class Ended(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many running leases a revocation ended."""

    ended: Count


class LeasesAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `leases`, as a query."""

    reference: Text | None = None
    ended: bool = False
    limit: Positive = 100


class Subject(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A principal that somebody else is asked about. Times in milliseconds since the epoch."""

    id: Text
    issuer: Text
    instance: Text | None = None
    groups: tuple[Text, ...]
    claims: dict[str, Any]
    bound_by: Literal["bearer", "key"] = "bearer"
    key_hash: Text | None = None
    issued_at: int
    expires_at: int


class ExplainAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `explain`."""

    action: Action
    reference: Text
    purpose: Text | None = None
    subject: Subject | None = None


class EntriesAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `entries`, as a query."""

    after: Count = 0
    limit: Positive = 100
    reference: Text | None = None


class Revision(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A policy's revision."""

    revision: Sha256


class PolicyAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `policy`, as a query; none means the one that counts."""

    revision: Sha256 | None = None


class GcAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of `gc`."""

    dry_run: bool = False
