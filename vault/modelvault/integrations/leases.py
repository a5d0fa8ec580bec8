"""The models that one door has open: one lease for each reference, given back together."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial

from modelvault.client.session import Session
from modelvault.errors import Conflict, InvalidRequest
from modelvault.loader.model import Model


def purpose_here() -> str:
    """What this process loads for, where a framework has no place to say it.

    Raises InvalidRequest (`no_purpose`).
    """
    told = os.environ.get("MODELVAULT_PURPOSE")
    if not told:
        raise InvalidRequest(
            "no_purpose",
            "nothing says what the model is loaded for",
            "set MODELVAULT_PURPOSE=inference (fsspec: storage_options={'purpose': 'inference'})",
        )
    return told


class Leases:
    """Connects at the first use, and loads each reference once. Thread-safe.

    A reference stays the version that it named when it was first used. Once a lease is over
    (revoked, denied, run out), what was opened under it gives AccessDenied, and the next use asks
    for a new one. Belongs to the process that made it: see `ours`.
    """

    def __init__(
        self, connect: Callable[[], Session], purpose: str | None, ticket: str | None = None
    ) -> None:
        """Without a `purpose`, MODELVAULT_PURPOSE is asked for at the first load."""
        self._connect = connect
        self._purpose = purpose
        self._ticket = ticket
        self._session: Session | None = None
        self._models: dict[str, Model] = {}
        self._ended: dict[str, list[Callable[[], None]]] = {}
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._closed = False

    @property
    def ours(self) -> bool:
        """Whether this process made it. A forked child must make its own: session and leases are
        its parent's."""
        return self._process == os.getpid()

    @property
    def open(self) -> bool:
        """Whether it can be used: it is ours and wasn't closed."""
        return self.ours and not self._closed

    def session(self) -> Session:
        """The session, connected by now. Raises what `connect` raises, Conflict (`closed`)."""
        with self._lock:
            return self._connected()

    def model(self, reference: str, ended: Callable[[], None] | None = None) -> Model:
        """The model, loaded by now; `ended` is called when its lease is over that nobody gave back.

        Raises as `session`, and what `load` raises.
        """
        with self._lock:
            session = self._connected()
            model = self._models.get(reference)
            if model is None:
                model = session.load(
                    reference,
                    purpose=self._purpose or purpose_here(),
                    ticket=self._ticket,
                    on_revoked=partial(self._over, reference),
                )
                self._models[reference] = model
            if ended is not None:
                self._ended.setdefault(reference, []).append(ended)
            return model

    def close(self) -> None:
        """Give all leases back and forget what was decrypted. Idempotent; nothing in a forked
        child. Raises Conflict (`views_alive`), with everything still open."""
        if not self.ours:  # nor is the lock taken: its holder wasn't forked along
            return
        with self._lock:
            if self._session is not None:
                self._session.close()
            self._closed = True
            self._session = None
            self._models.clear()
            self._ended.clear()

    def _connected(self) -> Session:
        if self._closed:
            raise Conflict("closed", "this connection was closed", "open a new one")
        if self._session is None:
            self._session = self._connect()
        return self._session

    def _over(self, reference: str, _reason: str) -> None:
        with self._lock:
            self._models.pop(reference, None)
            ended = self._ended.pop(reference, [])
        for call in ended:
            call()
