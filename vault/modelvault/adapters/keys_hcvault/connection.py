"""One identity at the key service: logs in, keeps its token alive, and asks.

Whatever goes wrong is Unavailable, with our own words: the texts of hvac's exceptions can hold
plaintexts and tokens. What the key service says about a request itself comes out as `Refused`, for
the port's code to tell apart.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from typing import TypeVar

import hvac
import hvac.exceptions
import requests

from modelvault.adapters.keys_hcvault.login import Granted, Login, granted
from modelvault.adapters.keys_hcvault.server import Server
from modelvault.clock import Clock, boot_ms
from modelvault.errors import ModelVaultError, Unavailable, sealed

T = TypeVar("T")
Ask = Callable[[hvac.Client], T]

_SEALED, _STANDBY = "it is sealed", "it is a standby, and no active node answered"
_TOO_LONG = "exceeds allowed length"
_STATUS = {
    hvac.exceptions.RateLimitExceeded: "it limits requests, or is a standby",
    hvac.exceptions.VaultDown: _SEALED,
    hvac.exceptions.VaultNotInitialized: "it isn't initialised",
    hvac.exceptions.BadGateway: _STANDBY,
    hvac.exceptions.InternalServerError: "it failed by itself",
}


class Refused(Exception):
    """The key service refused the request as such. `says` is for comparing, never for showing."""

    def __init__(self, says: str) -> None:
        super().__init__("refused")
        self.says = says


class Connection:
    """Thread-safe. Logs in at the first call; renews at two thirds of the token's time, less a
    random part, and logs in anew where that can't be done. A call that is told 403 logs in anew
    and asks once more: tokens can be revoked under us."""

    def __init__(self, server: Server, login: Login, clock: Clock = boot_ms) -> None:
        self.server = server
        self._login = login
        self._clock = clock
        self._lock = threading.Lock()
        self._current: _Session | None = None

    @property
    def mount(self) -> str:
        """Where transit is."""
        return self.server.mount

    @sealed
    def call(self, ask: Ask[T]) -> T:
        """Ask with a client that is logged in.

        Raises Refused for an answer of 400 or 404, else Unavailable (`key_service_unavailable`).
        """
        session = self._session()
        try:
            return self._ask(session, ask)
        except _Denied:
            session = self._anew(session)
        try:
            return self._ask(session, ask)
        except _Denied:
            raise unavailable("it denies this identity what it needs") from None

    def close(self) -> None:
        """Forget the token and let go of the connections. A later call logs in anew."""
        with self._lock:
            session, self._current = self._current, None
        if session is not None:
            session.client.adapter.close()

    def _ask(self, session: _Session, ask: Ask[T]) -> T:
        told: Exception
        try:
            return ask(session.client)
        except hvac.exceptions.Forbidden:
            told = _Denied()
        except (hvac.exceptions.InvalidRequest, hvac.exceptions.InvalidPath) as refused:
            told = Refused(says(refused))
        except Exception as failure:  # noqa: BLE001  each becomes Unavailable, with its own reason
            told = translated(failure)
        raise told  # out here it has no context: hvac's exception holds what was sent and answered

    def _session(self) -> _Session:
        current = self._current
        if current is not None and self._clock() < current.renew_at:
            return current
        with self._lock:
            current = self._current
            if current is None or self._clock() >= current.ends_at:
                return self._log_in()
            if self._clock() >= current.renew_at:
                return self._renew(current)
            return current

    def _anew(self, refused: _Session) -> _Session:
        with self._lock:
            # Another thread may have logged in meanwhile.
            return self._log_in() if self._current in {None, refused} else self._kept()

    def _kept(self) -> _Session:
        if self._current is None:
            raise unavailable("the login was given up")
        return self._current

    def _renew(self, current: _Session) -> _Session:
        """A renewed token, or a new one. An outage now is no harm while the old one is good."""
        try:
            if current.renewable:
                renewed = granted(current.client.auth.token.renew_self())
                if renewed.lease_s * 1000 > current.length_ms // 2:  # else it nears its cap
                    self._current = self._begin(renewed, current.client)
                    return self._current
        except Exception:  # noqa: BLE001, S110  a new login says what is wrong
            pass
        try:
            return self._log_in()
        except Unavailable:
            current.renew_at = min(self._clock() + 1000, current.ends_at)
            return current

    def _log_in(self) -> _Session:
        """A new client for each login: hvac's logins change a client in place, under others."""
        client = self.server.client()
        try:
            given = self._login.log_in(client)
        except ModelVaultError:
            raise
        except (
            hvac.exceptions.Forbidden,
            hvac.exceptions.Unauthorized,
            hvac.exceptions.InvalidRequest,
            hvac.exceptions.InvalidPath,
        ):
            raise unavailable("it refuses this login") from None
        except Exception as failure:  # noqa: BLE001  as in _ask
            raise translated(failure) from None
        client.token = given.token
        self._current = self._begin(given, client)
        return self._current

    def _begin(self, given: Granted, client: hvac.Client) -> _Session:
        now = self._clock()
        length = given.lease_s * 1000 or 3_600_000
        # Brokers that started together shouldn't all renew together.
        due = length * 2 // 3 - secrets.randbelow(length // 10 + 1)
        return _Session(client, now + due, now + length, length, renewable=given.renewable)


class _Session:
    """A client with a token, and when to renew it."""

    def __init__(
        self, client: hvac.Client, renew_at: int, ends_at: int, length_ms: int, *, renewable: bool
    ) -> None:
        self.client = client
        self.renew_at = renew_at
        self.ends_at = ends_at
        self.length_ms = length_ms
        self.renewable = renewable


class _Denied(Exception):
    """403: the token isn't good any more, or its policy doesn't allow this."""


def says(refused: hvac.exceptions.VaultError) -> str:
    """What Vault says, to compare: it can hold what was sent."""
    errors = refused.errors
    return " ".join(str(each) for each in errors) if isinstance(errors, list) else ""


def translated(failure: Exception) -> Unavailable:
    """The error of a request that got no usable answer."""
    if isinstance(failure, requests.exceptions.SSLError):
        return unavailable("its certificate can't be verified with the CA that is configured")
    if isinstance(failure, requests.Timeout):
        return unavailable("no answer in time")
    if isinstance(failure, (requests.RequestException, OSError)):
        return unavailable("it can't be reached")
    if isinstance(failure, hvac.exceptions.VaultError) and _TOO_LONG in says(failure):
        return unavailable(
            "a document is too long for its listener: max_json_string_value_length and "
            "max_request_size must be raised there"
        )
    for kind, why in _STATUS.items():
        if isinstance(failure, kind):
            return unavailable(why)
    if isinstance(failure, hvac.exceptions.VaultError):
        return unavailable("it answered in a way that isn't understood")
    return unavailable("its answer can't be read")


def unavailable(why: str) -> Unavailable:
    """No answer, a strange one, or no right to it."""
    return Unavailable(
        "key_service_unavailable",
        f"the key service gives no answer: {why}",
        "see its status (`vault status`), its policies for this identity, and [keys] here; running "
        "leases live on meanwhile",
    )
