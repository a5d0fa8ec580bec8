"""Models that a session holds leases of."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

from modelvault.client import ending
from modelvault.client import load as loading
from modelvault.client.context import Context
from modelvault.client.ending import OnRevoked
from modelvault.loader.ending import this_process
from modelvault.loader.model import Model
from modelvault.reference import Reference


class Holding:
    """The part of a Session that loads; errors as there."""

    _context: Context
    _models: weakref.WeakSet[Model]

    def load(
        self,
        reference: str,
        *,
        purpose: str,
        files: Sequence[str] | None = None,
        ticket: str | None = None,
        on_revoked: OnRevoked | None = None,
    ) -> Model:
        """Take a lease; bytes are decrypted at first use, into memory only.

        `files` asks for some paths alone. The lease is renewed in the background until the model
        is closed. When it is denied, revoked or runs out, nothing more can be read, what has no
        live views is wiped, and `on_revoked(reason)` is called from another thread; a broker that
        can't be reached is no denial before the ttl and the policy's grace are over. Where the
        policy says `terminate_on_revoke`, this process then gets SIGTERM once `on_revoked` has
        returned, and SIGKILL when those seconds are over.
        """
        model = loading.load(
            self._context,
            Reference.parse(reference),
            purpose=purpose,
            files=files,
            ticket=ticket,
            on_revoked=on_revoked,
            terminate=this_process,
        )
        self._models.add(model)
        return model

    def hold(
        self,
        reference: str,
        *,
        purpose: str,
        on_revoked: OnRevoked,
        files: Sequence[str] | None = None,
        ticket: str | None = None,
    ) -> Model:
        """As `load`, for a process that shows the model to others (`modelvault run`).

        When the lease is over, `on_revoked(reason)` has to end them: SIGTERM at once, SIGKILL after
        the model's `obligations.terminate_on_revoke` seconds. This process itself isn't ended.
        """
        model = loading.load(
            self._context,
            Reference.parse(reference),
            purpose=purpose,
            files=files,
            ticket=ticket,
            on_revoked=on_revoked,
            terminate=ending.others,
        )
        self._models.add(model)
        return model
