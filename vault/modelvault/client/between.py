"""What a session does together with another vault's."""

from __future__ import annotations

from pathlib import Path

from modelvault.client import copy as copying
from modelvault.client import migrate as migrating
from modelvault.client import taking
from modelvault.client.context import Context
from modelvault.client.copied import PURPOSE, Copied
from modelvault.client.migrate import ModelMoved, Told
from modelvault.client.progress import Progress
from modelvault.copies import Importing
from modelvault.lease import ModelSummary
from modelvault.reference import Reference


class Between:
    """The part of a Session that gives to, or takes from, another one; errors as there."""

    _context: Context

    def copy(
        self,
        reference: str,
        to: Between,
        target: str,
        *,
        purpose: str = PURPOSE,
        ticket: str | None = None,
        progress: Progress | None = None,
    ) -> Copied:
        """Copy a version into a model of another vault: ciphertext unchanged, the keys from broker
        to broker, signed anew there. `target` may name a tag, and the model must be there.

        An action `export` here, with that vault as its destination, and a `push` there. Doing it
        again finds the copy that stands. Raises AccessDenied (`untrusted_vault`) until an admin of
        each vault has pinned the other's trust file. `progress(done, total)` as in `push`.
        """
        return copying.copy(
            self._context,
            to._context,
            Reference.parse(reference),
            Reference.parse(target),
            purpose=purpose,
            ticket=ticket,
            progress=progress,
        )

    def invite(self, target: str) -> Importing:
        """Begin an import into a model whose version will be carried here by hand.

        The other vault's `pull` needs what this gives; `take_in` ends it, within seven days.
        """
        return taking.invite(self._context, Reference.parse(target))

    def take_in(
        self, folder: str | Path, target: str, *, progress: Progress | None = None
    ) -> Copied:
        """Bring in a version that was pulled for an invitation of this vault.

        Raises NotFound (`no_import_folder`), InvalidRequest (`not_invited`, `other_model`), and as
        `copy`.
        """
        return taking.take_in(
            self._context, Path(folder), Reference.parse(target), progress=progress
        )

    def migrate(
        self,
        to: Between,
        *,
        owner: str | None = None,
        purpose: str = PURPOSE,
        ticket: str | None = None,
        progress: Progress | None = None,
        told: Told = lambda _model: None,
    ) -> tuple[ModelMoved, ...]:
        """Copy all models, versions and tags into another vault; what stands there stays.

        Models that aren't there are made, owned by `owner` or else the caller. Versions get that
        vault's next numbers; revoked ones are left out. `progress` is each version's own, `told`
        hears of each model that is done. Takes `read_audit` here, besides what `copy` takes; raises
        as `copy` and `create` do, and goes on when called again.
        """
        return migrating.migrate(
            self._context,
            to._context,
            owner=owner,
            purpose=purpose,
            ticket=ticket,
            progress=progress,
            told=told,
        )

    def all_models(self) -> tuple[ModelSummary, ...]:
        """The models of all tenants that the caller may show: what `migrate` would copy."""
        return tuple(
            model
            for tenant in migrating.logged(self._context).tenants
            for model in migrating.models(self._context, tenant)
        )
