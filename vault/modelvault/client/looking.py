"""What a model is, by documents that were verified."""

from __future__ import annotations

from modelvault.artifact import trust as trusting
from modelvault.artifact.trust import Verified
from modelvault.client.context import Context
from modelvault.lease import ModelDetail
from modelvault.reference import Reference


def look(context: Context, reference: str) -> tuple[ModelDetail, Verified | None]:
    """A model with its versions and tags, and the version that is meant, if there is one.

    Raises IntegrityError for documents that the pinned trust doesn't confirm, or that are older
    than what was seen.
    """
    seen = context.pins.seen()
    detail = context.broker.show(context.credentials.caller(), reference)
    if detail.signed is None:
        return detail, None
    verified = trusting.verify(detail.signed, Reference.parse(reference), context.trust, seen)
    context.pins.remember(verified.seen)
    return detail, verified
