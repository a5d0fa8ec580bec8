"""What every request has around it: an id, a line in the log, a count, and safe headers."""

from __future__ import annotations

import logging
import re
import secrets
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modelvault.clock import boot_ms
from modelvault.errors import InvalidRequest, ModelVaultError
from modelvault.server import problems, tracing
from modelvault.server.metrics import Metrics
from modelvault.wire.calls import API, HEADER

_LOG = logging.getLogger("modelvault.access")
_ID = re.compile(rb"[A-Za-z0-9_-]{8,64}")
MAX_HEAD = 64 << 10
_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (HEADER.lower().encode(), API.encode()),
)


def request_id(scope: Scope | Any) -> str:  # noqa: ANN401  starlette's scopes are plain dicts
    """The id of the request."""
    return str(scope.get("modelvault.request", ""))


class Framing:
    """ASGI middleware. A caller's X-Request-Id is taken where it looks like one, and given back."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        name = given.decode() if _ID.fullmatch(given) else secrets.token_hex(8)
        scope["modelvault.request"] = name
        begun = boot_ms()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                more = (*_HEADERS, (b"x-request-id", name.encode()))
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        self._metrics.running.inc()
        with tracing.span(scope["headers"]) as span:
            try:
                refused = _refusal(scope)
                answering = self._app if refused is None else _refused(scope, refused)
                await answering(scope, receive, sending)
            except Exception as failure:  # noqa: BLE001  a mistake of ours ends in one answer
                if status == 0:
                    await problems.internal(failure, name)(scope, receive, sending)
            finally:
                self._metrics.running.dec()
                told = self._tell(scope, name, status, boot_ms() - begun)
                span.end(told)

    def _tell(
        self, scope: Scope, name: str, status: int, elapsed_ms: int
    ) -> dict[str, str | int | None]:
        call = scope.get("modelvault.call", "other")
        found = scope.get("modelvault.error")
        error = found if isinstance(found, ModelVaultError) else None
        outcome = error.family if error else "ok" if 200 <= status < 400 else "failed"
        self._metrics.requests.labels(call, outcome).inc()
        self._metrics.seconds.labels(call).observe(elapsed_ms / 1000)
        if error:
            self._metrics.errors.labels(error.code).inc()
        # No path and no query: they hold references, and one day somebody's token.
        told = {
            "request": name,
            "call": call,
            "method": scope["method"],
            "status": status,
            "ms": elapsed_ms,
            "code": error.code if error else None,
        }
        _LOG.info("request", extra=told)
        return told


def _refusal(scope: Scope) -> InvalidRequest | None:
    """What nobody takes apart, because of its head alone."""
    fields = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    # The parser bounds only what of a head isn't whole yet.
    if fields + len(scope["raw_path"]) + len(scope["query_string"]) > MAX_HEAD:
        return InvalidRequest("head_too_large", f"the request's head is over {MAX_HEAD} bytes")
    names = {name for name, _ in scope["headers"]}
    # A proxy that goes by the other one sees another request's begin (RFC 9112, section 6.3).
    if {b"content-length", b"transfer-encoding"} <= names:
        return InvalidRequest("bad_request", "the body's length is told in two ways")
    return None


def _refused(scope: Scope, refused: InvalidRequest) -> ASGIApp:
    scope["modelvault.error"] = refused
    return problems.answer(refused, request_id(scope), {"Connection": "close"})
