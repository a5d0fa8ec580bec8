"""DEKs out of the key service, for as short as a release takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from modelvault.broker.parts import Parts
from modelvault.catalog import KeyRow
from modelvault.crypto.secret import Secret
from modelvault.errors import Conflict, NotFound, Unavailable
from modelvault.ports.keys import WrappedKey


@contextmanager
def unwrapped(
    parts: Parts, tenant: str, model: str, artifacts: Iterable[str], at_hand: KeyRow | None = None
) -> Iterator[dict[str, Secret]]:
    """The DEKs of some artifacts of one model, each unwrapped once and all wiped at the end.

    `at_hand` is a wrapped key that was read before; if it was rotated away since, it is read again.

    Raises Unavailable: `key_missing` (ledger or key service have lost it), `key_moving` (it was
    rotated away twice in a moment); IntegrityError (`bad_wrapped_key`).
    """
    deks: dict[str, Secret] = {}
    try:
        for artifact in artifacts:
            known = at_hand if at_hand is not None and at_hand.artifact == artifact else None
            deks[artifact] = _unwrap(parts, tenant, model, artifact, known)
        yield deks
    finally:
        for dek in deks.values():
            dek.wipe()


def _unwrap(parts: Parts, tenant: str, model: str, artifact: str, at_hand: KeyRow | None) -> Secret:
    kek = parts.kek(tenant, model)
    context = parts.key_context(tenant, model, artifact)
    row = at_hand
    for _ in range(2):
        try:
            # A release that lost the race with a rotation reads the row once more.
            row = row or parts.ledger.key(artifact)
            return parts.keys.unwrap(kek, WrappedKey(row.wrapped, row.kek_version), context)
        except NotFound:
            raise Unavailable(
                "key_missing",
                f"the key of an artifact of {tenant}/{model} can't be found",
                "ask who runs the vault to look at the key service and the ledger",
            ) from None
        except Conflict as lost:
            if lost.code != "kek_version_retired":
                raise
            row = None
    raise Unavailable(
        "key_moving", f"the keys of {tenant}/{model} are being rotated", "ask again in a moment"
    )
