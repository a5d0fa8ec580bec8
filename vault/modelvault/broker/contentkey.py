"""The content key of a model: what the content tags of its files are made and kept with.

It is made at the model's first push and lies in the ledger as an artifact's DEK does, wrapped by
the model's KEK: a rotation moves it with the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from modelvault.broker.asked import Authorised, entry
from modelvault.broker.parts import Parts
from modelvault.broker.unwrapping import unwrapped
from modelvault.catalog import KeyRow
from modelvault.crypto import derive
from modelvault.crypto.secret import Secret
from modelvault.errors import NotFound


@contextmanager
def content_key(parts: Parts, tenant: str, model: str) -> Iterator[Secret]:
    """The key, wiped at the end. Errors as `unwrapped`."""
    artifact = derive.content_artifact(parts.vault, tenant, model)
    with unwrapped(parts, tenant, model, [artifact]) as keys:
        yield keys[artifact]


def ensure_content_key(parts: Parts, asked: Authorised, tenant: str, model: str) -> None:
    """Make it, unless the model has one.

    Raises Conflict (`kek_moved`) when a rotation came between: try again.
    """
    artifact = derive.content_artifact(parts.vault, tenant, model)
    with suppress(NotFound):
        parts.ledger.key(artifact)
        return
    context = parts.key_context(tenant, model, artifact)
    key, wrapped = parts.keys.data_key(parts.kek(tenant, model), context)
    key.wipe()
    row = KeyRow(
        artifact=artifact,
        tenant=tenant,
        model=model,
        wrapped=wrapped.wrapped,
        kek_version=wrapped.kek_version,
    )
    parts.ledger.keep_key(row, entry(asked, "done", step="content_key"))
