"""What operators and their programs ask for: whether it lives, whether it can serve, the bundle."""

from __future__ import annotations

import asyncio
import hmac
import re
import threading
from collections.abc import Awaitable, Callable

import anyio
import anyio.to_thread
import msgspec
from fastapi import Request, Response

from modelvault.clock import Clock, boot_ms
from modelvault.errors import AuthenticationError, NotFound
from modelvault.server import openapi
from modelvault.server.service import Service, States

BUNDLE_TYPE = "application/vnd.openpolicyagent.bundles"
FRESH_MS = 1_000
_WAIT = re.compile(r"(?:^|[;,\s])wait=([0-9]{1,3})(?:$|[;,\s])")
_LONGEST_WAIT_S = 30
_LOOK_S = 0.25

Answer = Callable[[Request], Awaitable[Response]]


def routes(service: Service) -> dict[str, Answer]:
    """The answers to GET, by path."""
    found = {
        "/healthz": _alive,
        "/readyz": _readiness(service),
        "/openapi.json": _openapi,
    }
    if service.bundle is not None:
        found["/v1/policy/bundle"] = _bundle(service, service.bundle)
    return found


async def _alive(_request: Request) -> Response:
    """From the event loop: a broker whose every thread waits for a slow part is no dead one, and
    killing it would help nobody."""
    return Response(b'{"status":"ok"}', media_type="application/json")


async def _openapi(_request: Request) -> Response:
    return Response(openapi.text(), media_type="application/json")


class Readiness:
    """Asks the parts at most once a second and never twice at a time, however often it is asked:
    this path shows no token. Thread-safe."""

    def __init__(self, states: Callable[[], States], clock: Clock = boot_ms) -> None:
        self._states = states
        self._clock = clock
        self._asking = threading.Lock()
        self._known: tuple[int, States] | None = None

    def states(self) -> States:
        """How each part is, or was a moment ago. While somebody asks, the others get what was known
        before; only the very first ones wait."""
        known = self._known
        if known is not None and self._clock() - known[0] < FRESH_MS:
            return known[1]
        if not self._asking.acquire(blocking=known is None):
            return {} if known is None else known[1]
        try:
            if self._known is known:
                self._known = (self._clock(), dict(self._states()))
            return {} if self._known is None else self._known[1]
        finally:
            self._asking.release()


def _readiness(service: Service) -> Answer:
    readiness = Readiness(service.states)
    # Threads of their own: readiness is to be told most of all when the others are all busy.
    threads = anyio.CapacityLimiter(4)

    async def ready(_request: Request) -> Response:
        found = await anyio.to_thread.run_sync(readiness.states, limiter=threads)
        states = dict(found)
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


def _bundle(service: Service, archive: Callable[[str], bytes]) -> Answer:
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
                content = await anyio.to_thread.run_sync(archive, revision)
                return Response(content, 200, {"ETag": f'"{revision}"'}, media_type=BUNDLE_TYPE)
            if service.draining() or await request.is_disconnected():
                break
        if revision is None:
            raise NotFound("no_policy", "no policy has been published yet", "publish one")
        return Response(status_code=304, headers={"ETag": f'"{revision}"'}, media_type=BUNDLE_TYPE)

    return bundle


def _check_bundle_token(service: Service, request: Request) -> None:
    given = request.headers.getlist("authorization")
    wanted = f"Bearer {service.bundle_token}".encode()
    if len(given) != 1 or not hmac.compare_digest(given[0].encode(), wanted):
        raise AuthenticationError("bad_token", "this isn't OPA's token", "see [policy] here")
