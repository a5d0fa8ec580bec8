"""What happens when a lease is over that its holder didn't give back."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

from modelvault.access import Obligations
from modelvault.loader.model import Model

OnRevoked = Callable[[str], None]
# Begins the end of those who use the model: at once, and by force after these seconds. What it
# returns is called when the job was told.
Terminate = Callable[[int], Callable[[], None]]
# So long the wiping may wait for a thread that still reads: a store that never answers must not
# keep those from their end who use the model.
_WIPING_S = 2.0


class Ending:
    """When the broker took a lease back, or it ran out: first nothing more can be read, then what
    nobody looks at is wiped, then the job is told, then what it let go is wiped, and where the
    policy says so (`terminate_on_revoke`) the process ends."""

    def __init__(self, on_revoked: OnRevoked | None, terminate: Terminate) -> None:
        self._on_revoked = on_revoked
        self._terminate = terminate
        self._wipe: Callable[[], None] = lambda: None
        self._model: Callable[[], Model | None] = lambda: None
        self._obligations = Obligations()

    def watch(self, model: Model, wipe: Callable[[], None]) -> None:
        """Names what to drop and how keys are wiped; the model isn't kept alive by this."""
        self._model = weakref.ref(model)
        self._wipe = wipe
        self._obligations = model.obligations

    def heed(self, obligations: Obligations) -> None:
        """What the policy asks since the last renewal. Raises AccessDenied where that can't be
        kept: then the lease is over."""
        model = self._model()
        if model is not None:
            model.heed(obligations)
        self._obligations = obligations

    def __call__(self, reason: str) -> None:
        """The keeper's call."""
        grace_s = self._obligations.terminate_on_revoke
        self._wipe()
        finish = _nothing if grace_s is None else self._terminate(grace_s)
        try:
            self._drop()
            if self._on_revoked is not None:
                self._on_revoked(reason)
                self._drop()
        finally:
            finish()

    def _drop(self) -> None:
        """Deny access, and wipe: what waits for a reader longer than `_WIPING_S` goes on beside."""
        model = self._model()
        if model is None:
            return
        wiping = threading.Thread(target=model.drop, name="modelvault-drop", daemon=True)
        del model  # else who is told, and drops all, would still find it alive
        try:
            wiping.start()
        except RuntimeError:  # no further thread can be had
            self._drop_here()
        else:
            wiping.join(_WIPING_S)

    def _drop_here(self) -> None:
        model = self._model()
        if model is not None:
            model.drop()


def others(_grace_s: int) -> Callable[[], None]:
    """A `Terminate` for who holds a model for other processes, and ends these by itself."""
    return _nothing


def _nothing() -> None:
    """Nobody is to be ended."""
