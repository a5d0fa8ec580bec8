"""Requests to a broker: bounded in bytes and in time, and repeated only where that is safe."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, SSLError
from urllib3.response import BaseHTTPResponse

from modelvault.access import Caller
from modelvault.adapters.broker_http import answers, pool
from modelvault.adapters.broker_http.pool import Address
from modelvault.clock import Clock, boot_ms, utc_ms
from modelvault.errors import AuthenticationError, InvalidRequest, Unavailable, sealed
from modelvault.wire.calls import API, HEADER, Call, check_id

# urllib3 writes each request's path and query into its debug log: references are in there.
logging.getLogger("urllib3").setLevel(max(logging.INFO, logging.getLogger("urllib3").level))

TRIES = 3
MAX_ANSWER = 192 << 20  # a manifest of 64 MiB, twice in base64
_CHUNK = 1 << 20
_PAUSE_S = 0.2
_MAX_AGENT = 128
# Nothing was changed, and a moment later it may be well.
_PASSING = frozenset(
    {
        "broker_unavailable", "busy", "cut_off", "key_moving", "lease_lapsed",
        "ledger_unavailable", "policy_moved",
    }
)  # fmt: skip

Pause = Callable[[float], None]


class _Lost(Exception):
    """No whole answer came."""


class _Unsent(Exception):
    """There was no connection: the broker can't have done anything."""


class Connection:
    """Thread-safe. Connections are kept; nothing is taken from the environment's proxies.

    `clock` is the wall clock, which the broker's is compared with; `boot` measures how long a call
    takes.
    """

    def __init__(
        self,
        address: Address,
        *,
        clock: Clock = utc_ms,
        boot: Clock = boot_ms,
        pause: Pause = time.sleep,
    ) -> None:
        self._url = address.url.rstrip("/")
        self._timeout_ms = round(address.timeout_s * 1000)
        self._clock = clock
        self._boot = boot
        self._pause = pause
        self._pool = pool.make(address)

    @sealed
    def ask(self, call: Call, caller: Caller, id: str = "", body: object = None) -> Any:  # noqa: ANN401
        """The answer of one call.

        Raises the broker's error; Unavailable (`broker_unavailable`, `broker_untrusted`,
        `client_untrusted`, `other_api`), after several tries where the call may simply be sent
        again; NotFound and AuthenticationError for an id and a token that can't be any.
        """
        check_id(call, id)
        until = self._boot() + self._timeout_ms
        for number in range(1, TRIES + 1):
            last = number == TRIES or self._boot() >= until
            try:
                return self._once(call, caller, id, body)
            except _Unsent:
                if last:
                    raise answers.unavailable("it can't be reached") from None
            except _Lost:
                if last or not call.again:
                    raise answers.unavailable("it broke off, or took too long") from None
            except Unavailable as told:
                if last or not call.again or told.code not in _PASSING:
                    raise
            # With jitter, so that jobs which lost a broker together don't come back together.
            self._pause(_PAUSE_S * 2**number * (0.5 + secrets.randbelow(512) / 1024))
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def _once(self, call: Call, caller: Caller, id: str, body: object) -> Any:  # noqa: ANN401
        status, headers, data = self._send(call, caller, id, body)
        try:
            return answers.value(call, status, headers, data)
        except AuthenticationError as refused:
            raise answers.skewed(refused, headers, self._clock()) from None

    def _send(
        self, call: Call, caller: Caller, id: str, body: object
    ) -> tuple[int, Mapping[str, str], bytes]:
        headers = _headers(caller)
        query, content = _written(call, body)
        url = self._url + call.path.replace("{id}", id) + query
        if content is not None:
            headers["Content-Type"] = "application/json"
        try:
            answer = self._pool.request(
                call.method,
                url,
                body=content,
                headers=headers,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            return answer.status, answer.headers, self._read(answer)
        except SSLError as failure:
            told = answers.untrusted(self._url, failure.args[0] if failure.args else None)
            if told.code == "broker_unavailable":
                raise _Lost from None
            raise told from None
        except (NewConnectionError, ConnectTimeoutError):
            raise _Unsent from None
        except (HTTPError, OSError):
            raise _Lost from None

    def _read(self, answer: BaseHTTPResponse) -> bytes:
        """The whole body. A connection that isn't read to its end is closed: what is left in it
        must not be taken for the next answer."""
        until = self._boot() + self._timeout_ms
        data = bytearray()
        whole = False
        try:
            while chunk := answer.read1(_CHUNK):
                data += chunk
                if len(data) > MAX_ANSWER:
                    raise answers.unavailable("its answer is too long")
                if self._boot() > until:
                    raise _Lost
            whole = True
        finally:
            answer.release_conn() if whole else answer.close()
        return bytes(data)


def _headers(caller: Caller) -> dict[str, str]:
    token = caller.token
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        # It would end the header, and begin another one.
        raise AuthenticationError(
            "malformed_token", "the token isn't a JWT", "get a fresh token from its issuer"
        )
    agent = "".join(
        char for char in caller.client[:_MAX_AGENT] if char.isascii() and char.isprintable()
    )
    return {
        "Authorization": f"Bearer {token}",
        "User-Agent": agent.strip() or "modelvault",
        "Accept": "application/json, application/problem+json",
        "Accept-Encoding": "identity",
        HEADER: API,
    }


def _written(call: Call, body: object) -> tuple[str, bytes | None]:
    """(the query, the content). Raises InvalidRequest (`bad_document`) for what has no JSON."""
    try:
        if body is None:
            return "", None
        if call.method == "GET":
            return "?" + urlencode(_query(body)), None
        return "", msgspec.json.encode(body)
    except (TypeError, ValueError, RecursionError):
        raise InvalidRequest(
            "bad_document", f"an argument of {call.name} can't be sent", "use plain values"
        ) from None


def _query(body: object) -> dict[str, str]:
    plain = msgspec.to_builtins(body)
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in plain.items()
        if value is not None
    }
