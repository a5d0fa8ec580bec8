"""A person's login as a source of tokens: kept between commands, renewed before it ends."""

from __future__ import annotations

import threading

from modelvault.clock import Clock
from modelvault.errors import AuthenticationError, ModelVaultError, Unavailable, unframed
from modelvault.ports.login import Granted, LoginProvider, LoginShelf

# A token that ends while its request is under way is refused.
MARGIN_MS = 30_000


class LoginToken:
    """A TokenSource: the kept login's token, a new one once it has less than 30 s left.

    `clock` is the wall clock. Thread-safe, and several processes may share a login.
    """

    def __init__(self, shelf: LoginShelf, provider: LoginProvider, clock: Clock) -> None:
        self._shelf = shelf
        self._provider = provider
        self._clock = clock
        self._lock = threading.Lock()
        self._held: Granted | None = None

    def __call__(self, _key_hash: str | None) -> str:
        """The token. AuthenticationError: `not_logged_in`, `login_ended`; Unavailable."""
        with self._lock:
            if self._held is None or not self._lasts(self._held):
                try:
                    self._held = self._current()
                except ModelVaultError as refused:
                    raise unframed(refused) from None
            return self._held.token

    def __repr__(self) -> str:
        return "<LoginToken>"

    def _lasts(self, granted: Granted) -> bool:
        return self._clock() < granted.expires_at - MARGIN_MS

    def _current(self) -> Granted:
        kept = self._kept()
        if self._lasts(kept):
            return kept
        with self._shelf.locked():
            kept = self._kept()  # another process may have been faster
            return kept if self._lasts(kept) else self._renewed(kept)

    def _renewed(self, kept: Granted) -> Granted:
        if kept.refresh_token is None:
            raise ended()
        try:
            fresh = self._provider.refresh(kept)
        except Unavailable:
            if self._clock() < kept.expires_at:
                return kept  # the provider is away, and the token isn't over yet
            raise
        self._shelf.put(fresh)
        return fresh

    def _kept(self) -> Granted:
        kept = self._shelf.get()
        if kept is None:
            raise AuthenticationError(
                "not_logged_in", "nobody is logged in here", "run `modelvault login`"
            )
        return kept


def log_out(shelf: LoginShelf, provider: LoginProvider) -> bool | None:
    """End the login there and forget it here, here in any case.

    True: revoked. False: the provider couldn't be told, and what it gave stays good until it ends.
    None: nobody was logged in.
    """
    with shelf.locked():
        kept = shelf.get()
        try:
            return None if kept is None else provider.revoke(kept)
        except ModelVaultError:
            return False
        finally:
            shelf.remove()


def ended() -> AuthenticationError:
    """The provider gives no further token for this login."""
    return AuthenticationError("login_ended", "the login has ended", "run `modelvault login`")
