"""Requests to a broker: over TLS that is verified, bounded, and understood or else an outage.

A deny wipes running jobs, so only a broker's own word is one: an answer that isn't one of its
problem documents (a proxy's 403, a login page, half a body) is Unavailable.
"""

from __future__ import annotations

import secrets
import ssl
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec
import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    SSLError,
)

from modelvault.access import Caller
from modelvault.clock import Clock, utc_ms
from modelvault.errors import (
    AuthenticationError,
    InvalidRequest,
    ModelVaultError,
    Unavailable,
    sealed,
)
from modelvault.wire import problem
from modelvault.wire.calls import Call
from modelvault.wire.problem import MAX_PROBLEM, MEDIA_TYPE, Problem

TRIES = 3
MAX_ANSWER = 192 << 20  # a manifest of 64 MiB, twice in base64
_PAUSE_S = 0.2
_SKEW_MS = 30_000
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

Pause = Callable[[float], None]


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where a broker is: https://host[:port], or plain http on loopback. `ca` is a PEM file; with
    `certificate` and `key` the client shows a certificate of its own."""

    url: str
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise _bad(self.url, "it isn't https://host:port")
        if parts.query or parts.fragment or parts.username or parts.path not in {"", "/"}:
            raise _bad(self.url, "it has more in it than a host and a port")
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise _bad(self.url, "without TLS anybody on the way could read the token")


class Connection:
    """Thread-safe. Connections are kept; nothing is taken from the environment's proxies."""

    def __init__(
        self, address: Address, *, clock: Clock = utc_ms, pause: Pause = time.sleep
    ) -> None:
        self._url = address.url.rstrip("/")
        self._clock = clock
        self._pause = pause
        self._pool = urllib3.PoolManager(
            maxsize=16,
            retries=False,
            timeout=urllib3.Timeout(connect=min(10.0, address.timeout_s), read=address.timeout_s),
            ssl_context=_tls(address),
        )

    @sealed
    def ask(self, call: Call, caller: Caller, id: str = "", body: object = None) -> Any:  # noqa: ANN401
        """The answer of one call. Raises the broker's error, or Unavailable (`broker_unavailable`,
        `broker_untrusted`), after several tries where the call may simply be sent again."""
        tries = TRIES if call.again else 1
        for number in range(1, tries + 1):
            try:
                return self._once(call, caller, id, body)
            except _Lost:
                if number == tries:
                    raise _unavailable("it can't be reached, or broke off its answer") from None
            except Unavailable as told:
                if number == tries or told.code not in _BUSY:
                    raise
            self._pause(_PAUSE_S * 2**number * (0.5 + secrets.randbelow(512) / 1024))
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def _once(self, call: Call, caller: Caller, id: str, body: object) -> Any:  # noqa: ANN401
        status, headers, data = self._send(call, caller, id, body)
        if status in {200, 204}:
            return _value(call, status, data)
        error = _error(headers, data)
        if isinstance(error, AuthenticationError):
            error = self._skewed(error, headers)
        raise error

    def _send(
        self, call: Call, caller: Caller, id: str, body: object
    ) -> tuple[int, Mapping[str, str], bytes]:
        if id and not (id.isascii() and id.isalnum()):
            raise InvalidRequest("bad_id", "an id is made of letters and digits", "use it as given")
        url = self._url + call.path.replace("{id}", id)
        headers = {"Authorization": f"Bearer {caller.token}", "User-Agent": caller.client or "?"}
        content = None
        if body is not None and call.method == "GET":
            url += "?" + urlencode(_query(body))
        elif body is not None:
            content = msgspec.json.encode(body)
            headers["Content-Type"] = "application/json"
        try:
            answer = self._pool.request(
                call.method, url, body=content, headers=headers, redirect=False,
                preload_content=False,
            )  # fmt: skip
            try:
                data = answer.read(MAX_ANSWER + 1)
                if len(data) > MAX_ANSWER:
                    raise _unavailable("its answer is too long")
            finally:
                answer.release_conn() if answer.length_remaining == 0 else answer.close()
        except SSLError:
            raise _untrusted(self._url) from None
        except (NewConnectionError, ConnectTimeoutError):
            raise _Lost from None
        except (HTTPError, OSError):
            raise _Lost from None
        return answer.status, answer.headers, data

    def _skewed(self, error: AuthenticationError, headers: Mapping[str, str]) -> ModelVaultError:
        """A refused token, with the one cause that nobody thinks of: the clocks differ."""
        try:
            theirs = int(parsedate_to_datetime(headers.get("date", "")).timestamp() * 1000)
        except (TypeError, ValueError, OverflowError):
            return error
        skew_s = (self._clock() - theirs) // 1000
        if abs(skew_s) * 1000 < _SKEW_MS:
            return error
        way = "ahead of" if skew_s > 0 else "behind"
        return AuthenticationError(
            error.code,
            f"{error.message} (this machine's clock is {abs(skew_s)} s {way} the broker's)",
            "set this machine's clock, then get a fresh token",
            **dict(error.details),
        )


class _Lost(Exception):
    """No whole answer came."""


_BUSY = frozenset({"ledger_unavailable", "policy_moved", "key_moving", "broker_unavailable"})


def _value(call: Call, status: int, data: bytes) -> Any:  # noqa: ANN401
    if call.answer is None:
        return None
    try:
        if status != 200:
            raise ValueError("no content")
        return msgspec.json.decode(data, type=call.answer, strict=True)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        raise _unavailable("its answer isn't understood: is it of another version?") from None


def _error(headers: Mapping[str, str], data: bytes) -> ModelVaultError:
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != MEDIA_TYPE or len(data) > MAX_PROBLEM:
        return _unavailable("something on the way answered instead of it")
    try:
        return problem.error_of(msgspec.json.decode(data, type=Problem, strict=True))
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return _unavailable("its answer isn't understood: is it of another version?")


def _query(body: object) -> dict[str, str]:
    plain = msgspec.to_builtins(body)
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in plain.items()
        if value is not None
    }


def _tls(address: Address) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(address.ca) if address.ca else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if address.certificate is not None:
            context.load_cert_chain(address.certificate, address.key)
    except (OSError, ssl.SSLError):
        raise InvalidRequest(
            "bad_tls_files",
            "the CA, the certificate or its key can't be read",
            "check the files that the profile names: PEM, and readable for this process",
        ) from None
    return context


def _bad(url: str, why: str) -> InvalidRequest:
    shown = url.partition("?")[0].rpartition("@")[2][:200]
    return InvalidRequest(
        "bad_broker", f"the broker's address {shown!r} can't be used: {why}", "write https://host"
    )


def _untrusted(url: str) -> Unavailable:
    return Unavailable(
        "broker_untrusted",
        f"the certificate of {url} can't be verified",
        "name the CA's PEM file with MODELVAULT_CA or the profile's `ca`, and check the host name",
    )


def _unavailable(why: str) -> Unavailable:
    return Unavailable(
        "broker_unavailable",
        f"the broker gives no answer: {why}",
        "check its address and the network; a loaded model lives on until its lease and grace end",
    )
