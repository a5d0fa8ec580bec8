"""Models that were made from others: adapters, and the very version that each belongs to.

The base's digest stands in the adapter's signed manifest, so what an adapter is put on is what its
pusher had: a tag that moved meanwhile, or a version put in its place, is never taken for it.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from modelvault.client.ending import OnRevoked
from modelvault.errors import InvalidRequest, ModelVaultError, NotFound
from modelvault.lease import ModelDetail
from modelvault.loader.model import Model
from modelvault.manifest import Manifest, Provenance
from modelvault.reference import Reference


class WithBase:
    """An adapter and its base, each under its own lease; closed together.

    Threads may use it as they use a Model. Drop what was taken of either before the `with` ends.
    """

    def __init__(self, adapter: Model, base: Model) -> None:
        self.adapter = adapter
        self.base = base

    def close(self) -> None:
        """Close both. Doing it twice is fine.

        Raises Conflict (`views_alive`) for what is in use; a later close works.
        """
        self.adapter.close()
        self.base.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.adapter.__exit__(kind, error, trace)
        finally:
            self.base.__exit__(kind, error, trace)

    def __repr__(self) -> str:
        return f"<{self.adapter!r} on {self.base!r}>"


class _Vault(Protocol):
    """What of a Session is used here."""

    def load(
        self, reference: str, *, purpose: str, ticket: str | None, on_revoked: OnRevoked | None
    ) -> Model: ...

    def show(self, reference: str) -> ModelDetail: ...


class Bases:
    """The part of a Session that knows what was made from what; errors as there."""

    def based_on(self: _Vault, reference: str) -> Provenance:
        """What a push says of a model made from the version that `reference` means now: its exact
        name, and the digest of its manifest, verified.

            vault.push("./adapter", "adapter:prod", provenance=vault.based_on("llama:prod"))

        Raises NotFound (`no_version`) for a model without any.
        """
        signed = self.show(reference).signed
        if signed is None:
            raise NotFound("no_version", f"{reference} has no version yet", "push the base first")
        manifest = Manifest.from_bytes(signed.manifest.payload)
        exact = Reference(manifest.tenant, manifest.model, version=manifest.version)
        return Provenance(base=str(exact), base_digest=signed.manifest.digest)

    def load_with_base(
        self: _Vault,
        reference: str,
        *,
        purpose: str,
        ticket: str | None = None,
        base_ticket: str | None = None,
        on_revoked: OnRevoked | None = None,
    ) -> WithBase:
        """Load an adapter and the version that it was made from: two leases, a decision for each.

        The base is taken by the digest in the adapter's signed manifest. Where it can't be had, the
        adapter's lease is given back. `on_revoked(reason)` is called when either lease ends early.

        Raises InvalidRequest (`no_base`) for a model that doesn't name its base by digest, NotFound
        (`base_gone`), and what `load` raises, saying which of the two it is about.
        """
        adapter = self.load(reference, purpose=purpose, ticket=ticket, on_revoked=on_revoked)
        try:
            wanted = _base_of(adapter)
            try:
                base = self.load(
                    str(wanted), purpose=purpose, ticket=base_ticket, on_revoked=on_revoked
                )
            except ModelVaultError as refused:
                raise _of_the_base(adapter, wanted, refused) from None
        except BaseException:
            adapter.close()
            raise
        return WithBase(adapter, base)


def _base_of(adapter: Model) -> Reference:
    """The exact version that an adapter's manifest names."""
    told = adapter.manifest.provenance
    try:
        named = Reference.parse(told.base or "")
    except InvalidRequest:
        named = None
    if named is None or told.base_digest is None:
        raise InvalidRequest(
            "no_base",
            f"{adapter.name} names "
            + (f"only {told.base!r}, and no verified version" if told.base else "nothing")
            + " that it was made from",
            "push it with --base NAME@VERSION (provenance=vault.based_on(...)), or load both by "
            "their names",
        )
    return Reference(named.tenant, named.model, digest=told.base_digest)


def _of_the_base(adapter: Model, wanted: Reference, error: ModelVaultError) -> ModelVaultError:
    what = f"the base of {adapter.name}, {adapter.manifest.provenance.base} ({wanted.digest})"
    if isinstance(error, NotFound):
        return NotFound(
            "base_gone",
            f"{what}, isn't in this vault, or you may not see it",
            f"ask {adapter.manifest.created_by}, who pushed the adapter; a copy from another vault "
            "has another digest: push the adapter with the base that this vault holds",
        )
    return type(error)(error.code, f"{what}: {error.message}", error.hint, **error.details)
