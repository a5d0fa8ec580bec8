"""Requests to an OpenID provider: bounded, not redirected, never shown in an error."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec
import urllib3
from urllib3.exceptions import HTTPError

from modelvault.errors import InvalidRequest, Unavailable

MAX_BYTES = 1 << 20
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Transport:
    """Connections to one provider. Thread-safe. Raises InvalidRequest (`bad_login`) for a CA that
    can't be read."""

    def __init__(self, ca: str | None) -> None:
        path = None if ca is None else str(Path(ca).expanduser())
        try:
            context = ssl.create_default_context(cafile=path)
        except (OSError, ssl.SSLError):
            raise bad_login(f"no CA certificates can be read from {path}") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._pool = urllib3.PoolManager(
            retries=False, timeout=urllib3.Timeout(connect=5.0, read=15.0), ssl_context=context
        )

    def get(self, url: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON object. Raises Unavailable (`login_unavailable`)."""
        return self._sent("GET", url, None)

    def post(self, url: str, form: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """As `get`; an answer without a body is an empty object."""
        return self._sent("POST", url, urlencode(form))

    def close(self) -> None:
        """Let go of the connections."""
        self._pool.clear()

    def _sent(self, method: str, url: str, body: str | None) -> tuple[int, dict[str, Any]]:
        found = self._answer(method, url, body)
        # Raised here, not while the foreign exception is at hand: that one knows the form.
        if found is None:
            raise unavailable("it can't be reached, or gives no usable answer")
        return found

    def _answer(self, method: str, url: str, body: str | None) -> tuple[int, dict[str, Any]] | None:
        headers = {"Accept": "application/json"} | (_FORM if body is not None else {})
        try:
            answer = self._pool.request(
                method, url, body=body, headers=headers, redirect=False, preload_content=False
            )
            try:
                data = answer.read(MAX_BYTES + 1)
            finally:
                answer.close()
        except (HTTPError, OSError, ValueError):
            return None
        if len(data) > MAX_BYTES or answer.status >= 500 or 300 <= answer.status < 400:
            return None
        try:
            value = msgspec.json.decode(data) if data.strip() else {}
        except msgspec.DecodeError:
            # A refusal without words is one nevertheless.
            value = {} if 400 <= answer.status < 500 else None
        return (answer.status, value) if isinstance(value, dict) else None


def allowed(url: object) -> bool:
    """Whether tokens may be sent there: https, or http on loopback."""
    if not isinstance(url, str):
        return False
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    if not host or parts.username is not None or parts.fragment:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _loopback(host))


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bad_login(why: str) -> InvalidRequest:
    """The profile's `login` can't be used."""
    return InvalidRequest(
        "bad_login", f"the login settings can't be used: {why}", "mend `login` in the profile"
    )


def unavailable(why: str) -> Unavailable:
    """The provider gave no usable answer."""
    return Unavailable(
        "login_unavailable",
        f"the login provider: {why}",
        "check that this machine reaches the profile's login issuer, then try again",
    )
