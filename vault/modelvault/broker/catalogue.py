"""What there is to see: list, show, pull."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

from modelvault.access import Caller
from modelvault.broker.asked import Authorised, entry, whole_vault
from modelvault.broker.gate import Gate
from modelvault.broker.parts import Parts
from modelvault.broker.verified import KnownModel, Records
from modelvault.catalog import ModelRow, VersionRow
from modelvault.clock import to_text
from modelvault.errors import InvalidRequest, NotFound
from modelvault.lease import ModelDetail, ModelSummary, TagSummary, VersionSummary
from modelvault.ports.ledger import Ledger
from modelvault.record import SignedVersion
from modelvault.reference import NAME, Reference

_PAGE = 200
_MAX_FILTER = 256


class Catalogue:
    """`list`, `show` and `pull` of ports.broker.Broker. Thread-safe."""

    def __init__(self, parts: Parts, gate: Gate) -> None:
        self._ledger = parts.ledger
        self._terms = parts.terms
        self._gate = gate

    def list(
        self, caller: Caller, *, tenant: str, filter: str, limit: int, after: str
    ) -> tuple[ModelSummary, ...]:
        """The models that the caller may show, by name; hidden ones aren't among them."""
        who = self._gate.authenticate(caller, "list", None)
        check_limit(limit, self._terms.max_page)
        _check_tenant(tenant)
        if len(filter) > _MAX_FILTER:
            raise InvalidRequest("bad_filter", f"a filter has at most {_MAX_FILTER} characters")
        self._gate.authorise(who, "list", whole_vault(tenant))
        found: list[ModelSummary] = []
        size = min(limit, _PAGE) if not filter else _PAGE
        for row in self._rows(tenant, after, size):
            if filter and not fnmatchcase(row.model, filter):
                continue
            model = self._gate.records.known(row)
            if self._gate.may_show(who, model.resource()):
                found.append(summary(self._ledger, self._gate.records, model))
            if len(found) == limit:
                break
        return tuple(found)

    def show(self, caller: Caller, reference: str) -> ModelDetail:
        """A model with its versions and tags, and the documents of the version that is meant."""
        named = Reference.parse(reference)
        who = self._gate.authenticate(caller, "show", None)
        model = self._gate.records.model(named)
        self._gate.authorise(who, "show", model.resource())
        standing = _standing(self._ledger, model)
        return ModelDetail(
            summary=summary(self._ledger, self._gate.records, model),
            versions=tuple(self._version(row, who.now) for row in standing),
            signed=self._signed(model, named),
        )

    def pull(self, caller: Caller, reference: str) -> SignedVersion:
        """The documents of a version, which name the objects with its ciphertext."""
        named = Reference.parse(reference)
        who = self._gate.authenticate(caller, "pull", None)
        version = self._gate.version(who, named)
        asked: Authorised = self._gate.authorise(who, "pull", version.resource())
        self._ledger.append(entry(asked, "allowed"))
        return version.signed

    def _rows(self, tenant: str, after: str, size: int) -> Iterator[ModelRow]:
        while True:
            page = self._ledger.models(tenant, after=after, limit=size)
            yield from page
            if len(page) < size:
                return
            after = page[-1].model

    def _signed(self, model: KnownModel, named: Reference) -> SignedVersion | None:
        try:
            return self._gate.records.version(model, named).signed
        except NotFound:
            if named.tag or named.version or named.digest:
                raise
            return None

    def _version(self, row: VersionRow, now: int) -> VersionSummary:
        name = f"{row.tenant}/{row.model}@{row.version}"
        revocation = self._ledger.revoked(subject="", version=name, at=now)
        try:
            kek_version = self._ledger.key(row.artifact).kek_version
        except NotFound:
            kek_version = None
        return VersionSummary(
            version=row.version,
            manifest=row.digest,
            created_at=to_text(row.created_at),
            created_by=row.created_by,
            size=row.size,
            files=row.files,
            kek_version=kek_version,
            hidden_at=None,
            revoked_at=None if revocation is None else to_text(revocation.at),
        )


def check_limit(limit: int, most: int) -> None:
    """Raises InvalidRequest (`bad_limit`)."""
    if not 1 <= limit <= most:
        raise InvalidRequest("bad_limit", f"a page of {limit}", f"ask for 1 to {most}")


def _check_tenant(tenant: str) -> None:
    if not re.fullmatch(NAME, tenant):
        raise InvalidRequest(
            "bad_reference",
            f"not a tenant's name: {tenant[:80]!r}",
            "names are letters, digits, dot, dash and underscore, at most 96",
        )


def summary(ledger: Ledger, records: Records, model: KnownModel) -> ModelSummary:
    """A model in a listing; `size` is the newest standing version's, in plaintext bytes.

    Tags are read from their signed records.
    """
    standing = _standing(ledger, model)
    record = model.record
    return ModelSummary(
        tenant=record.tenant,
        model=record.model,
        owner=record.owner,
        classification=record.classification,
        created_at=record.created_at,
        versions=len(standing),
        latest=standing[0].version if standing else None,
        size=standing[0].size if standing else 0,
        tags=tuple(
            TagSummary(tag=tag.tag, version=tag.version, serial=tag.serial)
            for tag in map(records.tag_record, ledger.tags(record.tenant, record.model))
        ),
    )


def _standing(ledger: Ledger, model: KnownModel) -> list[VersionRow]:
    rows = ledger.versions(model.record.tenant, model.record.model)
    return [row for row in rows if row.hidden_at is None]
