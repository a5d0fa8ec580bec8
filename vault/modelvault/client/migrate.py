"""All of one vault into another: models, versions and tags, by one copy after the other.

What stands there already is left as it is, so it can be run again, and goes on where it stopped.
Versions that the giver has revoked are left out: nobody gets their keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import msgspec

from modelvault.artifact import trust as trusting
from modelvault.client.context import Context
from modelvault.client.copied import PURPOSE, Copied
from modelvault.client.copy import copy
from modelvault.client.progress import Progress
from modelvault.client.tag import move_tag
from modelvault.errors import AccessDenied, NotFound
from modelvault.lease import ModelDetail, ModelSummary
from modelvault.record import Entry
from modelvault.reference import Reference

_PAGE = 500


class VersionMoved(msgspec.Struct, frozen=True, kw_only=True):
    """A version's number in both vaults; `new` is false where its copy stood there before."""

    version: int
    became: int
    new: bool


class VersionLeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """A revoked version, which wasn't copied; `reason` is what its revocation says, and `tags` are
    those that mean it, which weren't set."""

    version: int
    reference: str
    reason: str
    tags: tuple[str, ...]


class ModelMoved(msgspec.Struct, frozen=True, kw_only=True):
    """A model as it is in the receiving vault.

    `made` where it wasn't there; the tags that were set, and those that were there and were left as
    they are. `size` is that of the versions that are new, in plaintext bytes. `in_order` is false
    where the versions stand in another order there, since a later one was copied before.
    """

    tenant: str
    model: str
    made: bool
    versions: tuple[VersionMoved, ...]
    left_out: tuple[VersionLeftOut, ...]
    in_order: bool
    tags: tuple[str, ...]
    tags_kept: tuple[str, ...]
    size: int


Told = Callable[[ModelMoved], None]


class Logged(msgspec.Struct, frozen=True):
    """What the audit log tells: the tenants that models were ever made in, and why versions were
    revoked, by `tenant/model@version`. A version's revocation never ends."""

    tenants: tuple[str, ...]
    revoked: dict[str, str]


def logged(context: Context) -> Logged:
    """Read the whole audit log of a vault."""
    tenants: set[str] = set()
    revoked: dict[str, str] = {}
    after: int | None = 0
    while after is not None:
        page = context.steward.entries(context.credentials.caller(), after=after, limit=_PAGE)
        for each in page.entries:
            if each.tenant is not None:
                tenants.add(each.tenant)
            if _revokes_a_version(each):
                reason = str(each.details.get("reason") or "")
                revoked.setdefault(str(each.details.get("target")), reason)
        after = page.next
    return Logged(tuple(sorted(tenants)), revoked)


def _revokes_a_version(entry: Entry) -> bool:
    told = (entry.action, entry.outcome, entry.details.get("kind"))
    return told == ("revoke", "done", "version")


def models(context: Context, tenant: str) -> Iterator[ModelSummary]:
    """All models of a tenant that the caller may show."""
    after = ""
    while True:
        caller = context.credentials.caller()
        page = context.broker.list(caller, tenant=tenant, limit=_PAGE, after=after)
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1].model


def migrate(
    giver: Context,
    receiver: Context,
    *,
    owner: str | None,
    purpose: str = PURPOSE,
    ticket: str | None = None,
    progress: Progress | None = None,
    told: Told = lambda _model: None,
) -> tuple[ModelMoved, ...]:
    """Copy everything that stands.

    A model that isn't there yet is made, with its classification and the owner `owner` (the caller,
    without one): the giver's owners mean nothing to the receiver.

    Versions come in their order and get the receiver's next numbers: where one was deleted, the
    numbers differ from here on. Revoked versions are left out, and told of. `progress` hears of one
    version after the other, `told` of each model that is done. Raises what `copy` and `create`
    raise; what was done stays.
    """
    moved = []
    log = logged(giver)
    for tenant in log.tenants:
        for model in models(giver, tenant):
            done = _Model(giver, receiver, model, log, owner, purpose, ticket, progress).move()
            moved.append(done)
            told(done)
    return tuple(moved)


class _Model:
    """One model on its way."""

    def __init__(
        self,
        giver: Context,
        receiver: Context,
        model: ModelSummary,
        log: Logged,
        owner: str | None,
        purpose: str,
        ticket: str | None,
        progress: Progress | None,
    ) -> None:
        self._giver = giver
        self._receiver = receiver
        self._model = model
        self._log = log
        self._owner = owner
        self._purpose = purpose
        self._ticket = ticket
        self._progress = progress
        self._name = Reference(model.tenant, model.model)

    def move(self) -> ModelMoved:
        made, tags_there = self._make()
        versions, out, size = self._versions()
        became = {each.version: each.became for each in versions}
        tags = {tag.tag: became[tag.version] for tag in self._model.tags if tag.version in became}
        new = {tag: version for tag, version in tags.items() if tag not in tags_there}
        for tag, version in new.items():
            move_tag(self._receiver, msgspec.structs.replace(self._name, version=version), tag)
        return ModelMoved(
            tenant=self._model.tenant,
            model=self._model.model,
            made=made,
            versions=tuple(versions),
            left_out=tuple(out),
            in_order=in_order([each.became for each in versions]),
            tags=tuple(sorted(new)),
            tags_kept=tuple(sorted(tags.keys() - new.keys())),
            size=size,
        )

    def _make(self) -> tuple[bool, frozenset[str]]:
        """(whether the model was made now, the tags that it has there)."""
        receiver = self._receiver
        try:
            there = receiver.broker.show(receiver.credentials.caller(), str(self._name))
        except NotFound:
            receiver.steward.create(
                receiver.credentials.caller(),
                str(self._name),
                owner=self._owner,
                classification=self._model.classification,
            )
            return True, frozenset()
        return False, frozenset(tag.tag for tag in there.summary.tags)

    def _versions(self) -> tuple[list[VersionMoved], list[VersionLeftOut], int]:
        moved, out, size = [], [], 0
        for version in sorted(each.version for each in _detail(self._giver, self._name).versions):
            source = msgspec.structs.replace(self._name, version=version)
            try:
                copied = self._copy(source)
            except AccessDenied as refused:
                if not _is_of_version(refused, source):
                    raise
                out.append(left_out(self._model, version, self._log))
                continue
            moved.append(VersionMoved(version=version, became=copied.version, new=copied.new))
            size += copied.size if copied.new else 0
        return moved, out, size

    def _copy(self, source: Reference) -> Copied:
        return copy(
            self._giver,
            self._receiver,
            source,
            self._name,
            purpose=self._purpose,
            ticket=self._ticket,
            progress=self._progress,
        )


def left_out(model: ModelSummary, version: int, log: Logged) -> VersionLeftOut:
    """A revoked version of a model."""
    name = Reference(model.tenant, model.model, version=version)
    return VersionLeftOut(
        version=version,
        reference=str(name),
        # Where it was revoked after the log had been read, that is all there is to say.
        reason=log.revoked.get(_target(name), ""),
        tags=tuple(sorted(tag.tag for tag in model.tags if tag.version == version)),
    )


def in_order(numbers: list[int]) -> bool:
    """Whether each is greater than the one before."""
    return all(before < after for before, after in pairwise(numbers))


def _target(version: Reference) -> str:
    """As revocations name a version."""
    return f"{version.tenant}/{version.model}@{version.version}"


def _is_of_version(refused: AccessDenied, version: Reference) -> bool:
    """Whether this version was revoked, and not whoever asks for it."""
    told = (refused.code, refused.details.get("kind"), refused.details.get("target"))
    return told == ("revoked", "version", _target(version))


def _detail(context: Context, name: Reference) -> ModelDetail:
    """A model with its versions; the documents that come along are verified."""
    seen = context.pins.seen()
    detail = context.broker.show(context.credentials.caller(), str(name))
    if detail.signed is not None:
        context.pins.remember(trusting.verify(detail.signed, name, context.trust, seen).seen)
    return detail
