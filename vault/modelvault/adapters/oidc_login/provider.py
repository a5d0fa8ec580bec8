"""An OpenID provider as a public client sees it: metadata, tokens, refresh, revocation.

The metadata is read from the configured issuer and must name that very issuer (OpenID Connect
Discovery, section 4.3): nothing a token or an answer says leads anywhere else. The client verifies
no signature of a token that it got over TLS from the token endpoint itself (OpenID Connect Core,
3.1.3.7); the broker does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeGuard

import msgspec

from modelvault.adapters.oidc_login.transport import Transport, allowed, bad_login, unavailable
from modelvault.clock import Clock
from modelvault.errors import AuthenticationError, ModelVaultError, unframed
from modelvault.identity import peek
from modelvault.ports.login import Granted
from modelvault.settings import Login

MAX_TOKEN_BYTES = 16 << 10
_CODE = re.compile(r"[a-z_]{1,64}")
_DEFAULT_LIFETIME_S = 60


class Metadata(msgspec.Struct, frozen=True):
    """Endpoints of the provider; those that it hasn't got are None."""

    issuer: str
    token_endpoint: str
    authorization_endpoint: str | None = None
    device_authorization_endpoint: str | None = None
    revocation_endpoint: str | None = None
    code_challenge_methods_supported: tuple[str, ...] = ("S256",)
    authorization_response_iss_parameter_supported: bool = False


class OidcProvider:
    """LoginProvider of the profile's `login`. `clock` is the wall clock.

    No request is made before the first call. Raises InvalidRequest (`bad_login`) for an issuer
    that isn't https (or on loopback).
    """

    def __init__(self, login: Login, clock: Clock) -> None:
        if not allowed(login.issuer):
            raise bad_login("its issuer isn't https:// (http:// is for loopback alone)")
        self.login = login
        self.clock = clock
        self.transport = Transport(login.ca)
        self._found: Metadata | None = None

    def metadata(self) -> Metadata:
        """The provider's endpoints. Raises Unavailable (`login_unavailable`)."""
        if self._found is None:
            issuer = self.login.issuer
            url = issuer.rstrip("/") + "/.well-known/openid-configuration"
            status, told = self.transport.get(url)
            self._found = _metadata(status, told, issuer)
        return self._found

    def refresh(self, granted: Granted) -> Granted:
        """See ports.login.LoginProvider."""
        try:
            return self._refreshed(granted)
        except ModelVaultError as refused:
            raise unframed(refused) from None

    def revoke(self, granted: Granted) -> bool:
        """See ports.login.LoginProvider."""
        try:
            return self._revoked(granted)
        except ModelVaultError as refused:
            raise unframed(refused) from None

    def granted(self, answer: Mapping[str, Any], nonce: str | None = None) -> Granted:
        """What a token endpoint's answer gives. `nonce` must be in the id token, if it is given.

        Raises AuthenticationError (`login_failed`).
        """
        token, refresh = answer.get(self.login.shows), answer.get("refresh_token")
        if not _is_token(token) or not (refresh is None or _is_token(refresh)):
            raise failed(
                f"it gave no usable {self.login.shows}",
                "check the client's scopes at the provider, and `shows` in the profile's login",
            )
        claims = peek.claims(answer.get("id_token"))
        if claims is not None:
            self._check_id_token(claims, nonce)
        elif nonce is not None or self.login.shows == "id_token":
            raise failed("its id token isn't a JWT", "check that it is an OpenID provider")
        return Granted(token=token, refresh_token=refresh, expires_at=self._ends(token, answer))

    def close(self) -> None:
        """Let go of the connections."""
        self.transport.close()

    def _refreshed(self, granted: Granted) -> Granted:
        form = {"grant_type": "refresh_token", "refresh_token": granted.refresh_token or ""}
        status, answer = self.transport.post(self.metadata().token_endpoint, form | self._client())
        if status != 200:
            if answer.get("error") == "invalid_grant":
                raise AuthenticationError(
                    "login_ended", "the login has ended", "run `modelvault login`"
                )
            raise refused(answer)
        fresh = self.granted(answer)
        if fresh.refresh_token is not None:
            return fresh
        return msgspec.structs.replace(fresh, refresh_token=granted.refresh_token)

    def _revoked(self, granted: Granted) -> bool:
        endpoint = self.metadata().revocation_endpoint
        if endpoint is None:
            return False
        # Revoking the refresh token ends what came of it too (RFC 7009, section 2.1).
        if granted.refresh_token is not None:
            form = {"token": granted.refresh_token, "token_type_hint": "refresh_token"}
        elif self.login.shows == "access_token":
            form = {"token": granted.token, "token_type_hint": "access_token"}
        else:
            return False  # an id token can't be revoked
        status, answer = self.transport.post(endpoint, form | self._client())
        if status != 200:
            raise refused(answer)
        return True

    def _client(self) -> dict[str, str]:
        return {"client_id": self.login.client_id}

    def _check_id_token(self, claims: Mapping[str, Any], nonce: str | None) -> None:
        audience = claims.get("aud")
        ours = audience in (self.login.client_id, [self.login.client_id])
        if claims.get("iss") != self.login.issuer or not ours:
            raise failed(
                "its id token is another issuer's or another client's",
                "check issuer and client_id in the profile's login",
            )
        if nonce is not None and claims.get("nonce") != nonce:
            raise failed("its id token belongs to another login", "log in again")

    def _ends(self, token: str, answer: Mapping[str, Any]) -> int:
        said = peek.expires_at(token)
        if said is not None:
            return said
        lifetime = answer.get("expires_in")
        seconds = lifetime if type(lifetime) is int and lifetime > 0 else _DEFAULT_LIFETIME_S
        return self.clock() + min(seconds, 86_400) * 1000


def refused(answer: Mapping[str, Any]) -> AuthenticationError:
    """A refusal of the provider's (RFC 6749, section 5.2): its code, and none of its text."""
    code = answer.get("error")
    told = code if isinstance(code, str) and _CODE.fullmatch(code) else "no reason given"
    return failed(f"it refuses: {told}", "log in again; check the client's settings there")


def failed(why: str, hint: str) -> AuthenticationError:
    """The login came to nothing."""
    return AuthenticationError("login_failed", f"the login provider: {why}", hint)


def _metadata(status: int, told: dict[str, Any], issuer: str) -> Metadata:
    try:
        found = msgspec.convert(told, Metadata) if status == 200 else None
    except msgspec.ValidationError:
        found = None
    if found is None:
        raise unavailable("it gives no metadata")
    if found.issuer != issuer:
        raise bad_login("the provider calls itself by another issuer")
    endpoints = (
        found.token_endpoint,
        found.authorization_endpoint,
        found.device_authorization_endpoint,
        found.revocation_endpoint,
    )
    if not all(url is None or allowed(url) for url in endpoints):
        raise bad_login("the provider names an endpoint that isn't https://")
    return found


def _is_token(token: object) -> TypeGuard[str]:
    return (
        isinstance(token, str)
        and 1 <= len(token) <= MAX_TOKEN_BYTES
        and token.isascii()
        and token.isprintable()
    )
