"""What a copy, or a migration, would meet: looked at before, and nothing is changed.

The policies are asked by `explain`, which is another walk; what neither tells, nobody can know
without doing it, and is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import msgspec

from modelvault import copies
from modelvault.artifact import trust as trusting
from modelvault.client.context import Context
from modelvault.client.migrate import Logged, VersionLeftOut, in_order, left_out
from modelvault.errors import AccessDenied, IntegrityError, NotFound
from modelvault.lease import ModelDetail, ModelSummary
from modelvault.record import TrustFile
from modelvault.reference import Reference

Pins = Mapping[str, TrustFile] | None  # by vault; None where only an admin of the broker sees them


class ModelForeseen(msgspec.Struct, frozen=True, kw_only=True):
    """A model as a migration would find it.

    `made` where it isn't in the receiving vault yet; `there` counts the versions whose copies stand
    already, `newest` is the last version that would be copied, and `in_order` as in `ModelMoved`.
    """

    summary: ModelSummary
    made: bool
    there: int
    newest: int | None
    left_out: tuple[VersionLeftOut, ...]
    in_order: bool


def check_trust(
    giver: Context, giver_pins: Pins, receiver: Context, receiver_pins: Pins
) -> tuple[str, ...]:
    """What of the trust between two vaults can't be seen from here.

    Raises InvalidRequest (`same_vault`), AccessDenied (`untrusted_vault`).
    """
    if giver.vault == receiver.vault:
        raise copies.same_vault()
    unseen = []
    for own, pins, other, action in (
        (giver.vault, giver_pins, receiver.vault, "export"),
        (receiver.vault, receiver_pins, giver.vault, "push"),
    ):
        if pins is None:
            unseen.append(f"whether vault {own} trusts vault {other}: its admin knows")
        elif other not in pins:
            raise copies.untrusted(own, other, action)
    return tuple(unseen)


def check_version(giver: Context, reference: Reference) -> None:
    """That the version is there, is what its documents say, and isn't revoked.

    Raises as `show`, and AccessDenied (`revoked`).
    """
    seen = giver.pins.seen()
    detail = giver.broker.show(giver.credentials.caller(), str(reference))
    if detail.signed is None:
        raise NotFound("no_version", f"{reference} has no version yet", "push one first")
    version = trusting.verify(detail.signed, reference, giver.trust, seen).manifest.version
    for each in detail.versions:
        if each.version == version and each.revoked_at is not None:
            name = Reference(detail.summary.tenant, detail.summary.model, version=version)
            raise AccessDenied(
                "revoked",
                f"the version {name} is revoked",
                "copy another version: nobody gets the keys of this one",
                kind="version",
                target=str(name),
            )


def model(giver: Context, receiver: Context, summary: ModelSummary, log: Logged) -> ModelForeseen:
    """What a migration would do with one model."""
    name = Reference(summary.tenant, summary.model)
    standing = _standing(receiver, name)
    stands = {} if standing is None else _artifacts(receiver, name, standing)
    following = max((each.version for each in standing.versions), default=0) if standing else 0
    detail = giver.broker.show(giver.credentials.caller(), str(name))
    artifacts = {n: a for a, n in _artifacts(giver, name, detail).items()} if stands else {}
    became, out, newest = [], [], None
    for each in sorted(detail.versions, key=lambda one: one.version):
        copied = stands.get(artifacts.get(each.version, ""))
        if copied is None and each.revoked_at is not None:
            out.append(left_out(summary, each.version, log))
            continue
        if copied is None:
            following += 1
            newest = each.version
        became.append(following if copied is None else copied)
    return ModelForeseen(
        summary=summary,
        made=standing is None,
        there=len(set(artifacts.values()) & stands.keys()),
        newest=newest,
        left_out=tuple(out),
        in_order=in_order(became),
    )


def _standing(receiver: Context, name: Reference) -> ModelDetail | None:
    with suppress(NotFound):
        return receiver.broker.show(receiver.credentials.caller(), str(name))
    return None


def _artifacts(context: Context, name: Reference, detail: ModelDetail) -> dict[str, int]:
    """Version numbers by artifact id, which a copy keeps."""
    found = {}
    for each in detail.versions:
        exact = msgspec.structs.replace(name, version=each.version)
        seen = context.pins.seen()
        signed = context.broker.show(context.credentials.caller(), str(exact)).signed
        if signed is None:
            raise IntegrityError(
                "wrong_version", f"no documents came for {exact}", "don't trust this broker"
            )
        found[trusting.verify(signed, exact, context.trust, seen).manifest.artifact] = each.version
    return found
