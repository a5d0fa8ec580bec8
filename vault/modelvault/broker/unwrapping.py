"""DEKs out of the key service, for as short as a release takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from modelvault.broker.parts import Parts
from modelvault.crypto.secret import Secret
from modelvault.errors import Conflict, NotFound, Unavailable
from modelvault.ports.keys import WrappedKey


@contextmanager
def unwrapped(
    parts: Parts, tenant: str, model: str, artifacts: Iterable[str]
) -> Iterator[dict[str, Secret]]:
    """The DEKs of some artifacts of one model, each unwrapped once and all wiped at the end.

    Raises Unavailable: `key_missing` (ledger or key service have lost it), `key_moving` (it was
    rotated away twice in a moment); IntegrityError (`bad_wrapped_key`).
    """
    deks: dict[str, Secret] = {}
    try:
        for artifact in artifacts:
            deks[artifact] = _unwrap(parts, tenant, model, artifact)
        yield deks
    finally:
        for dek in deks.values():
            dek.wipe()


def _unwrap(parts: Parts, tenant: str, model: str, artifact: str) -> Secret:
    kek = parts.kek(tenant, model)
    context = parts.key_context(tenant, model, artifact)
    for _ in range(2):  # a release that lost the race with a rotation reads the row once more
        try:
            row = parts.ledger.key(artifact)
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
    raise Unavailable(
        "key_moving", f"the keys of {tenant}/{model} are being rotated", "ask again in a moment"
    )
