"""What a session does together with another vault's."""

from __future__ import annotations

from pathlib import Path

from modelvault.client import ahead, taking
from modelvault.client import copy as copying
from modelvault.client import migrate as migrating
from modelvault.client.ahead import ModelForeseen, Pins
from modelvault.client.context import Context
from modelvault.client.copied import PURPOSE, Copied
from modelvault.client.local import Local
from modelvault.client.migrate import ModelMoved, Told
from modelvault.client.progress import Progress
from modelvault.copies import Importing
from modelvault.reference import Reference


class Between:
    """The part of a Session that gives to, or takes from, another one; errors as there."""

    _context: Context
    _local: Local | None

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

    def foresee_copy(self, to: Between, reference: str) -> tuple[str, ...]:
        """What can't be seen of a copy before it is made; nothing is changed.

        Raises what `copy` would, as far as both vaults tell: InvalidRequest (`same_vault`),
        AccessDenied (`untrusted_vault`, `revoked`), NotFound. Policies answer to `explain`.
        """
        unseen = ahead.check_trust(self._context, self._pins, to._context, to._pins)
        ahead.check_version(self._context, Reference.parse(reference))
        return unseen

    def foresee_migration(self, to: Between) -> tuple[tuple[ModelForeseen, ...], tuple[str, ...]]:
        """The models of all tenants that the caller may show, as `migrate` would find them, and
        what can't be seen before; raises as `foresee_copy`."""
        unseen = ahead.check_trust(self._context, self._pins, to._context, to._pins)
        log = migrating.logged(self._context)
        found = tuple(
            ahead.model(self._context, to._context, model, log)
            for tenant in log.tenants
            for model in migrating.models(self._context, tenant)
        )
        return found, unseen

    @property
    def _pins(self) -> Pins:
        return None if self._local is None else self._local.pinned()
