"""People's logins at an OpenID provider, and where they are kept between commands."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import NoReturn, Protocol

import msgspec


class Granted(msgspec.Struct, frozen=True, kw_only=True):
    """What a login gave: the `token` for brokers, good until `expires_at` (ms), and what gets the
    next one. The repr shows neither, and it can't be pickled."""

    token: str
    refresh_token: str | None
    expires_at: int

    def __repr__(self) -> str:
        return f"<Granted until {self.expires_at}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a login can't be pickled: it holds tokens")


class Prompt(msgspec.Struct, frozen=True):
    """What to tell who logs in on another device: open `url`, type `code`. `whole_url` has the
    code in it, where the provider gives one. Good for `lasts_s` seconds."""

    url: str
    code: str
    whole_url: str | None
    lasts_s: int


class LoginProvider(Protocol):
    """The provider of one login. Raises Unavailable (`login_unavailable`) when it gives no usable
    answer; no error holds a token."""

    def refresh(self, granted: Granted) -> Granted:
        """The next token; its refresh token is the new one, if there is a new one.

        Raises AuthenticationError (`login_ended`) when the provider wants a new login."""
        ...

    def revoke(self, granted: Granted) -> bool:
        """End the login at the provider (RFC 7009). False where the provider has no such thing."""
        ...


class LoginShelf(Protocol):
    """Keeps one login of one user. Raises Unavailable (`cant_keep_login`)."""

    def locked(self) -> AbstractContextManager[None]:
        """While it holds, no other process changes what is kept: refresh tokens that are used
        twice end the login."""
        ...

    def get(self) -> Granted | None:
        """What is kept; None also for what can't be read back."""
        ...

    def put(self, granted: Granted) -> None:
        """Keep it instead of what is kept."""
        ...

    def remove(self) -> None:
        """Idempotent."""
        ...
