"""The HTTP application: one route for each call of the table, and what operators ask for."""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
import msgspec
from fastapi import Depends, FastAPI, Request, Response
from starlette.exceptions import HTTPException

from modelvault.errors import AuthenticationError, InvalidRequest, ModelVaultError, NotFound
from modelvault.lease import Lease, Renewal
from modelvault.server import openapi, problems, requests
from modelvault.server.framing import Framing, request_id
from modelvault.server.routes import ANSWERS
from modelvault.server.service import Service
from modelvault.wire.calls import CALLS, Call

BUNDLE_TYPE = "application/vnd.openpolicyagent.bundles"
_WAIT = re.compile(r"(?:^|[;,\s])wait=([0-9]{1,3})(?:$|[;,\s])")
_LONGEST_WAIT_S = 30
_LOOK_S = 0.25


def create(service: Service, threads: int) -> FastAPI:
    """The application over a service; at most `threads` requests are worked on at once."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = threads
        yield

    app = FastAPI(
        lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False, openapi_url=None
    )
    app.add_exception_handler(ModelVaultError, _refused)
    app.add_exception_handler(HTTPException, _unrouted)
    sides = {"broker": service.broker, "steward": service.steward}
    for call in CALLS.values():
        side = sides[call.side]
        if side is not None:
            app.add_api_route(call.path, _endpoint(service, side, call), methods=[call.method])
    app.add_api_route("/healthz", _alive, methods=["GET"])
    app.add_api_route("/readyz", _readiness(service), methods=["GET"])
    app.add_api_route("/openapi.json", _openapi, methods=["GET"])
    if service.bundle is not None:
        app.add_api_route("/v1/policy/bundle", _bundle(service), methods=["GET"])
    app.add_middleware(Framing, metrics=service.metrics)
    return app


def _endpoint(service: Service, side: object, call: Call) -> Callable[..., Response]:
    """Answers one call, in a thread of the pool: everything below is plain and blocking."""
    method = ANSWERS[call.name]

    async def read(request: Request) -> bytes:
        # Who shows no token needn't be listened to.
        requests.caller(request, service.proxies)
        return await requests.body(request, call.limit)

    # As a default and not as Annotated: FastAPI can't resolve a local name in an annotation.
    def endpoint(request: Request, data: bytes = Depends(read)) -> Response:
        request.scope["modelvault.call"] = call.name
        who = requests.caller(request, service.proxies)
        body = requests.value(call, request, data)
        value = method(side, who, request.path_params.get("id", ""), body)
        _count(service, call, value)
        if call.answer is None:
            return Response(status_code=204)
        return Response(msgspec.json.encode(value), media_type="application/json")

    return endpoint


def _count(service: Service, call: Call, value: object) -> None:
    if isinstance(value, (Lease, Renewal)):
        service.metrics.lease_seconds.labels(call.name).observe(value.ttl_s)


def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, ModelVaultError):
        raise error
    request.scope["modelvault.error"] = error
    return problems.answer(error, request_id(request.scope))


def _unrouted(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    if status == 405:
        refused = InvalidRequest("bad_method", "this path takes another method", "see openapi.json")
    else:
        refused = InvalidRequest(
            "no_route",
            "this broker has no such path",
            "check the address, and that client and broker are of versions that fit",
        )
    request.scope["modelvault.error"] = refused
    return problems.answer(refused, request_id(request.scope))


def _alive() -> Response:
    return Response(b'{"status":"ok"}', media_type="application/json")


def _openapi() -> Response:
    return Response(openapi.text(), media_type="application/json")


def _readiness(service: Service) -> Callable[[], Response]:
    def ready() -> Response:
        states = dict(service.states())
        for part, wrong in states.items():
            service.metrics.parts.labels(part).set(0 if wrong else 1)
        if service.draining():
            states["server"] = "stopping"
        well = not any(states.values())
        body = {
            "status": "ready" if well else "not ready",
            "parts": {part: wrong or "ok" for part, wrong in states.items()},
        }
        return Response(
            msgspec.json.encode(body), 200 if well else 503, media_type="application/json"
        )

    return ready


def _bundle(service: Service) -> Callable[[Request], Awaitable[Response]]:
    """The archive of the policy in force, for OPA: at once where it has another, else when there is
    a new one, or when it has waited as long as it wanted (OPA's long polling)."""

    async def bundle(request: Request) -> Response:
        _check_bundle_token(service, request)
        known = request.headers.get("if-none-match", "")
        waited = _WAIT.search(request.headers.get("prefer", ""))
        tries = 1 + round(min(int(waited[1]), _LONGEST_WAIT_S) / _LOOK_S) if waited else 1
        revision = None
        for number in range(tries):
            if number:
                await asyncio.sleep(_LOOK_S)
            revision = await anyio.to_thread.run_sync(service.revision)
            if revision is not None and f'"{revision}"' not in known:
                content = await anyio.to_thread.run_sync(_archive, service, revision)
                return Response(content, 200, {"ETag": f'"{revision}"'}, media_type=BUNDLE_TYPE)
            if service.draining():
                break
        if revision is None:
            raise NotFound("no_policy", "no policy has been published yet", "publish one")
        return Response(status_code=304, headers={"ETag": f'"{revision}"'}, media_type=BUNDLE_TYPE)

    return bundle


def _archive(service: Service, revision: str) -> bytes:
    if service.bundle is None:
        raise NotFound("no_policy", "this broker serves no policies", "see [policy]")
    return service.bundle(revision)


def _check_bundle_token(service: Service, request: Request) -> None:
    wanted = service.bundle_token
    given: Any = request.headers.get("authorization", "")
    if wanted is not None and not hmac.compare_digest(given.encode(), f"Bearer {wanted}".encode()):
        raise AuthenticationError("bad_token", "this isn't OPA's token", "see [policy] here")
