"""Which older checkpoints a save may delete: those of its own series, and nothing else.

A series are the versions of one model that the same identity made and whose only tags are steps of
one prefix: for `run:step-1000` the tags `step-` and a number. A version that any other tag means
(`best`, `prod`), that somebody else made, or that has no tag at all is never touched.
"""

from __future__ import annotations

import logging
import re

import msgspec

from modelvault.client.context import Context
from modelvault.errors import InvalidRequest, ModelVaultError
from modelvault.lease import ModelDetail
from modelvault.reference import Reference

_LOG = logging.getLogger("modelvault.saving")
_STEP = re.compile(r"(.*?)([0-9]+)", re.ASCII)


class NotPruned(msgspec.Struct, frozen=True):
    """A version that should have been deleted, and why it wasn't: the error's code, message and
    hint. `version` is None where not even the older versions could be looked at."""

    version: int | None
    code: str
    message: str
    hint: str = ""


class Pruned(msgspec.Struct, frozen=True):
    """The numbers of the versions that were deleted, and those that weren't."""

    versions: tuple[int, ...] = ()
    failed: tuple[NotPruned, ...] = ()


def check_keep(reference: Reference, keep: int | None) -> None:
    """Raises InvalidRequest (`bad_keep`) where nothing says which checkpoints are one series."""
    if keep is None:
        return
    if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
        raise InvalidRequest("bad_keep", f"keep is {keep!r}", "keep at least 1 checkpoint")
    if reference.tag is None or not _STEP.fullmatch(reference.tag):
        raise InvalidRequest(
            "bad_keep",
            f"{reference} has no step, by which older checkpoints of the same series are known",
            f"save to {reference.name}:step-1000, or leave keep out",
        )


def prune(context: Context, saved: Reference, version: int, keep: int) -> Pruned:
    """Delete the older ones of the series that `version`, tagged as `saved` says, has come to.

    The newest `keep` stay, this one among them. A refusal or an outage is told and is no error: the
    checkpoint stands.
    """
    done: list[int] = []
    failed: list[NotPruned] = []
    try:
        detail = _show(context, saved)
        superfluous = series(detail, saved.tag or "", version)[keep:]
    except ModelVaultError as refused:
        return Pruned((), (_kept(None, refused),))
    tags = tags_of(detail)
    for number in superfluous:
        named = Reference(saved.tenant, saved.model, version=number)
        try:
            # Only with the tags that it was seen with: who has found it the best one meanwhile, and
            # tagged it so, keeps it.
            context.steward.delete(context.credentials.caller(), str(named), tags[number])
            done.append(number)
        except ModelVaultError as refused:
            failed.append(_kept(number, refused))
    return Pruned(tuple(done), tuple(failed))


def _kept(version: int | None, refused: ModelVaultError) -> NotPruned:
    # Nobody need look at the result, and checkpoints that stay fill the store.
    _LOG.warning("an older checkpoint stays: %s; %s", refused.message, refused.hint)
    return NotPruned(version, refused.code, refused.message, refused.hint)


def series(detail: ModelDetail, tag: str, version: int) -> tuple[int, ...]:
    """The versions of the series of `version`, that one first and then the newest first.

    Where `tag` means another one by now, two have saved to it at once: then it is alone, since the
    one that the tag means may be an older one."""
    prefix = _prefix(tag)
    tags = tags_of(detail)
    if tag not in tags.get(version, ()):
        return (version,)
    makers = {each.version: each.created_by for each in detail.versions}
    older = [
        number
        for number, maker in makers.items()
        if number < version
        and maker == makers.get(version)
        and tags.get(number)
        and all(_prefix(tag) == prefix for tag in tags[number])
    ]
    return (version, *sorted(older, reverse=True))


def tags_of(detail: ModelDetail) -> dict[int, tuple[str, ...]]:
    """The tags of each version that has any."""
    found: dict[int, tuple[str, ...]] = {}
    for each in detail.summary.tags:
        found[each.version] = (*found.get(each.version, ()), each.tag)
    return found


def _prefix(tag: str) -> str | None:
    found = _STEP.fullmatch(tag)
    return found[1] if found else None


def _show(context: Context, saved: Reference) -> ModelDetail:
    return context.broker.show(context.credentials.caller(), saved.name)
