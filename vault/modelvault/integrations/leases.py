"""The models that one door has open: one lease for each reference, given back together."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from modelvault.client.session import Session
from modelvault.errors import Conflict, InvalidRequest
from modelvault.loader.model import Model

_LOADING_S = 5.0  # how long a close waits for a load that is on its way


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


class _Held:
    """One reference's model, until its lease is over. Who is told of that waits for no load."""

    def __init__(self) -> None:
        self.model: Model | None = None
        self._over = False
        self._tell: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def keep(self, model: Model) -> None:
        with self._lock:
            self.model = None if self._over else model

    def tell(self, ended: Callable[[], None]) -> None:
        """Call it when the lease is over: at once, where it is."""
        with self._lock:
            if not self._over:
                self._tell.append(ended)
                return
        ended()

    def end(self, _reason: str) -> None:
        with self._lock:
            self._over, self.model = True, None
            told, self._tell = self._tell, []
        for call in told:
            call()


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
        self._held: dict[str, _Held] = {}
        self._asking = threading.Lock()  # one connects or loads at a time
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
        with self._asking:
            return self._connected()

    def model(self, reference: str, ended: Callable[[], None] | None = None) -> Model:
        """The model, loaded by now; `ended` is called when its lease is over that nobody gave back.

        Raises as `session`, and what `load` raises.
        """
        with self._asking:
            session = self._connected()
            held = self._held.get(reference) or _Held()
            model = held.model
            if model is None:
                held = _Held()
                model = self._load(session, reference, held)
        if ended is not None:
            held.tell(ended)
        return model

    def close(self) -> None:
        """Give all leases back and forget what was decrypted. Idempotent; nothing in a forked
        child. Raises Conflict (`views_alive`), with everything still open."""
        if not self.ours:  # nor is the lock taken: its holder wasn't forked along
            return
        waited = self._asking.acquire(timeout=_LOADING_S)
        try:
            self._closed = True  # first: who loads at this moment gives back what he gets
            if self._session is not None:
                self._session.close()
        except Conflict:
            self._closed = False
            raise
        finally:
            if waited:
                self._asking.release()
        self._session = None
        self._held.clear()

    def _connected(self) -> Session:
        if self._closed:
            raise _closed()
        if self._session is None:
            self._session = self._connect()
        return self._session

    def _load(self, session: Session, reference: str, held: _Held) -> Model:
        model = session.load(
            reference,
            purpose=self._purpose or purpose_here(),
            ticket=self._ticket,
            on_revoked=held.end,
        )
        if self._closed:  # meanwhile
            model.close()
            raise _closed()
        held.keep(model)
        self._held[reference] = held
        return model


def _closed() -> Conflict:
    return Conflict("closed", "this connection was closed", "open a new one")
