"""Moving a tag, and checking that it moved where it was sent."""

from __future__ import annotations

from modelvault.artifact import trust as trusting
from modelvault.artifact.trust import Verified
from modelvault.client.context import Context
from modelvault.errors import IntegrityError, ModelVaultError
from modelvault.reference import Reference


def exact(verified: Verified) -> Reference:
    """The reference that means this version and no other."""
    manifest = verified.manifest
    return Reference(manifest.tenant, manifest.model, version=manifest.version)


def move_tag(context: Context, source: Reference, tag: str) -> Verified:
    """Make `tag` mean the version that `source` means.

    Raises what Steward raises, and IntegrityError where the signed answer isn't of this tag, or
    is of another version than `source` names.
    """
    moved = Reference(source.tenant, source.model, tag=tag)
    seen = context.pins.seen()
    signed = context.steward.tag(context.credentials.caller(), str(source), tag)
    verified = trusting.verify(signed, moved, context.trust, seen)
    if source.version not in {None, verified.manifest.version} or source.digest not in {
        None,
        verified.digest,
    }:
        raise IntegrityError(
            "wrong_version",
            f"{moved} was set to {exact(verified)} instead of {source}",
            "look at `modelvault show`, and set the tag again",
        )
    context.pins.remember(verified.seen)
    return verified


def tag_new(context: Context, verified: Verified, tag: str) -> None:
    """Make `tag` mean the version that was just published.

    Raises as `move_tag`, saying that the version stands all the same.
    """
    stands = exact(verified)
    try:
        move_tag(context, stands, tag)
    except IntegrityError:
        raise
    except ModelVaultError as failed:
        raise type(failed)(
            failed.code,
            f"{stands} stands, but {tag} doesn't mean it yet: {failed.message}",
            f"nothing need be uploaded again: `modelvault tag {stands} {tag}`",
            **failed.details,
        ) from None
