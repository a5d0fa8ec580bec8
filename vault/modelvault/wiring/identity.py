"""Who a process is for a broker: its sources of tokens, and people's logins."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from modelvault import clock as clocks
from modelvault.client import login as logins
from modelvault.client.credentials import EnvironmentToken, TokenSource
from modelvault.client.helper import HelperToken
from modelvault.errors import InvalidRequest
from modelvault.ports.login import Granted, LoginProvider, LoginShelf, Prompt
from modelvault.settings import Login, Settings

if TYPE_CHECKING:
    from modelvault.adapters.oidc_login import OidcProvider


class LoggedIn(msgspec.Struct, frozen=True):
    """A login that stands. `renewable`: new tokens come without the person."""

    issuer: str
    expires_at: int
    renewable: bool


def further_source(settings: Settings, vault: str) -> TokenSource | None:
    """The profile's variable, helper or login, in this order; None where it has none of them.

    Nothing is asked before the first token is wanted. `vault` is the vault's id.
    """
    if settings.token_variable is not None:
        return EnvironmentToken(settings.token_variable, os.environ)
    if settings.token_command is not None:
        return HelperToken(settings.token_command, vault, env=os.environ, clock=clocks.utc_ms)
    if settings.login is not None:
        provider, shelf = _parts(settings, settings.login)
        return logins.LoginToken(shelf, provider, clocks.utc_ms)
    return None


def log_in_by_browser(settings: Settings, show: Callable[[str], None]) -> LoggedIn:
    """Log in with a browser on this machine; `show` gets the address to open.

    Raises InvalidRequest (`bad_login`: the profile has no `login`, too), AuthenticationError
    (`login_failed`), Unavailable.
    """
    from modelvault.adapters.oidc_login import log_in_by_browser as by_browser

    with _logging_in(settings) as (provider, keep):
        return keep(by_browser(provider, show))


def log_in_by_device(settings: Settings, tell: Callable[[Prompt], None]) -> LoggedIn:
    """Log in on another device; `tell` gets what to open and to type there. Raises as above."""
    from modelvault.adapters.oidc_login import log_in_by_device as by_device

    with _logging_in(settings) as (provider, keep):
        return keep(by_device(provider, tell, time.sleep))


def log_out(settings: Settings) -> bool | None:
    """See `client.login.log_out`. Raises InvalidRequest (`bad_login`)."""
    provider, shelf = _parts(settings, _login(settings))
    return logins.log_out(shelf, provider)


@contextmanager
def _logging_in(
    settings: Settings,
) -> Iterator[tuple[OidcProvider, Callable[[Granted], LoggedIn]]]:
    from modelvault.adapters.oidc_login import OidcProvider, best_shelf

    login = _login(settings)
    provider = OidcProvider(login, clocks.utc_ms)

    def keep(granted: Granted) -> LoggedIn:
        shelf = best_shelf(login, settings.state_home)
        with shelf.locked():
            shelf.put(granted)
        return LoggedIn(login.issuer, granted.expires_at, granted.refresh_token is not None)

    try:
        yield provider, keep
    finally:
        provider.close()


def _parts(settings: Settings, login: Login) -> tuple[LoginProvider, LoginShelf]:
    from modelvault.adapters.oidc_login import OidcProvider, best_shelf

    return OidcProvider(login, clocks.utc_ms), best_shelf(login, settings.state_home)


def _login(settings: Settings) -> Login:
    if settings.login is None:
        raise InvalidRequest(
            "bad_login",
            "the profile doesn't say where to log in",
            'add `login = { issuer = "https://…", client_id = "…" }` to the profile',
        )
    return settings.login
