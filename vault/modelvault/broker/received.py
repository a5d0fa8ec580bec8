"""The keys that another vault handed over: opened, compared with what is here, wrapped anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from modelvault import binding
from modelvault.artifact.trust import Verified
from modelvault.broker import imported
from modelvault.broker.imported import Invited
from modelvault.broker.keycopy import deposit
from modelvault.broker.parts import Parts
from modelvault.broker.unwrapping import unwrapped
from modelvault.catalog import KeyRow, UploadRow
from modelvault.clock import to_text
from modelvault.crypto.derive import KEY_BYTES
from modelvault.crypto.secret import Secret
from modelvault.errors import Conflict, IntegrityError, NotFound


@contextmanager
def opened(
    parts: Parts, row: UploadRow, source: Verified, sealed: bytes
) -> Iterator[Mapping[str, Secret]]:
    """The giver's DEKs by artifact, wiped at the end.

    Raises IntegrityError: `not_for_us` (sealed for anything else than this import of this
    version), `bad_keys`, `other_key`.
    """
    manifest = source.manifest
    artifacts = sorted({file.artifact for file in manifest.files})
    with unwrapped(parts, row.tenant, row.model, [row.artifact]) as transport:
        dek = transport[row.artifact]
        with imported.invited(parts.vault, row.id, row.tenant, row.model, dek) as invited:
            to = invited.invitation(to_text(row.expires_at))
            info = binding.copy_info(imported.origin(source), to, artifacts)
            deks = _split(invited, sealed, info, artifacts)
    try:
        _check_same(parts, row, deks)
        yield deks
    finally:
        for each in deks.values():
            each.wipe()


def wrapped(parts: Parts, row: UploadRow, artifact: str, dek: Secret) -> KeyRow:
    """The DEK under this vault's KEK; its copy is in the store before the ledger names it.

    Raises Conflict (`artifact_here`) where another model has it: its copy stays that model's.
    """
    with suppress(NotFound):
        stands = parts.ledger.key(artifact)
        if (stands.tenant, stands.model) == (row.tenant, row.model):
            return stands
        raise artifact_here()
    context = parts.key_context(row.tenant, row.model, artifact)
    made = parts.keys.wrap(parts.kek(row.tenant, row.model), dek, context)
    key = KeyRow(
        artifact=artifact,
        tenant=row.tenant,
        model=row.model,
        wrapped=made.wrapped,
        kek_version=made.kek_version,
    )
    deposit(parts, key)
    return key


def artifact_here() -> Conflict:
    """A vault holds each artifact once, in one model: its key is bound to that."""
    return Conflict(
        "artifact_here",
        "this vault holds that version, or a part of it, already in another model",
        "use it there; in another model it takes a push of its files",
    )


def _check_same(parts: Parts, row: UploadRow, deks: Mapping[str, Secret]) -> None:
    """A key that the model has already must be the one that was handed over.

    Else a giver could name an artifact that isn't its own, and whoever may load the copy would
    get the file keys of the version that it belongs to.
    """
    for artifact, dek in deks.items():
        with suppress(NotFound):
            key = parts.ledger.key(artifact)
            if (key.tenant, key.model) != (row.tenant, row.model):
                continue  # the ledger refuses it
            with unwrapped(parts, row.tenant, row.model, [artifact]) as ours:
                if ours[artifact] != dek:
                    raise IntegrityError(
                        "other_key",
                        f"the giver's key of artifact {artifact} isn't the one that is here",
                        "don't trust that vault: it names an artifact that isn't its own",
                    )


def _split(
    invited: Invited, sealed: bytes, info: bytes, artifacts: Sequence[str]
) -> dict[str, Secret]:
    with invited.key.open(sealed, info) as plain:
        if len(plain) != KEY_BYTES * len(artifacts):
            raise IntegrityError(
                "bad_keys", "not one key for each artifact", "don't trust the giving vault"
            )
        keys = plain.reveal()
        return {
            artifact: Secret.copy_of(keys[at * KEY_BYTES : (at + 1) * KEY_BYTES])
            for at, artifact in enumerate(artifacts)
        }
