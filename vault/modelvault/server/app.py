"""The HTTP application: one route for each call of the table, and what operators ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio.to_thread
import msgspec
from fastapi import Depends, FastAPI, Request, Response
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match

from modelvault.clock import boot_ms
from modelvault.errors import InvalidRequest, ModelVaultError, Unavailable
from modelvault.lease import Lease, Renewal
from modelvault.server import operators, problems, requests
from modelvault.server.framing import Framing, request_id
from modelvault.server.routes import ANSWERS
from modelvault.server.service import Service
from modelvault.wire.calls import CALLS, Call, check_id

PATIENCE_MS = 20_000
# FastAPI's own spans and logs hold queries (references; a token, by somebody's mistake) and
# exceptions with all that is in them. `tracing` tells what may be told.
_SILENT: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
_METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE")


def create(service: Service, threads: int) -> FastAPI:
    """The application over a service; at most `threads` calls are worked on at once."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = threads
        yield

    app = FastAPI(
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        openapi_url=None,
        telemetry=_SILENT,
    )
    app.add_exception_handler(ModelVaultError, _refused)
    app.add_exception_handler(HTTPException, _unrouted)
    sides = {"broker": service.broker, "steward": service.steward}
    for call in CALLS.values():
        side = sides[call.side]
        if side is not None:
            app.add_api_route(call.path, _endpoint(service, side, call), methods=[call.method])
    for path, answer in operators.routes(service).items():
        app.add_api_route(path, answer, methods=["GET", "HEAD"])
    app.add_middleware(Framing, metrics=service.metrics)
    return app


def _endpoint(service: Service, side: object, call: Call) -> Callable[..., Response]:
    """Answers one call, in a thread of the pool: everything below is plain and blocking."""
    method = ANSWERS[call.name]

    async def read(request: Request) -> bytes:
        request.scope["modelvault.call"] = call.name
        # Who shows no token needn't be listened to.
        requests.caller(request, service.proxies)
        data = await requests.body(request, call)
        request.scope["modelvault.read"] = boot_ms()
        return data

    # As a default and not as Annotated: FastAPI can't resolve a local name in an annotation.
    def endpoint(request: Request, data: bytes = Depends(read)) -> Response:
        _check_patience(request)
        who = requests.caller(request, service.proxies)
        key = request.path_params.get("id", "")
        check_id(call, key)
        body = requests.value(call, request, data)
        with service.metrics.granting(call.name):
            value = method(side, who, key, body)
        if isinstance(value, (Lease, Renewal)):
            service.metrics.lease_seconds.labels(call.name).observe(value.ttl_s)
        if call.answer is None:
            return Response(status_code=204)
        return Response(msgspec.json.encode(value), media_type="application/json")

    return endpoint


def _check_patience(request: Request) -> None:
    """Whoever asked has given up by now, and has asked again: answering both would only make an
    overload last. Nothing was begun, so nothing is lost."""
    if boot_ms() - request.scope["modelvault.read"] > PATIENCE_MS:
        raise Unavailable(
            "busy", "the broker has more to do than it can", "try again, or run more brokers"
        )


def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, ModelVaultError):
        raise error
    request.scope["modelvault.error"] = error
    return problems.answer(error, request_id(request.scope))


def _unrouted(request: Request, error: Exception) -> Response:
    allowed = _allowed(request.app.routes, request)
    if isinstance(error, HTTPException) and error.status_code == 405 and allowed:
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": allowed})
        refused = InvalidRequest("bad_method", "this path takes another method", f"use {allowed}")
        return _problem(request, refused, {"Allow": allowed})
    refused = InvalidRequest(
        "no_route",
        "this broker has no such path",
        "check the address, and that client and broker are of versions that fit",
    )
    return _problem(request, refused, {})


def _problem(request: Request, refused: InvalidRequest, headers: dict[str, str]) -> Response:
    request.scope["modelvault.error"] = refused
    return problems.answer(refused, request_id(request.scope), headers)


def _allowed(routes: Sequence[BaseRoute], request: Request) -> str:
    """The methods that the request's path takes (RFC 9110, section 10.2.1)."""

    def takes(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] == Match.FULL for route in routes)

    return ", ".join(method for method in _METHODS if takes(method))
