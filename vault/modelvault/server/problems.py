"""Errors as answers: the table of statuses, and the one place that writes problem documents."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from pathlib import Path

import msgspec
from fastapi import Response

from modelvault.errors import ModelVaultError
from modelvault.wire import problem

_LOG = logging.getLogger("modelvault.server")

STATUS: Mapping[str, int] = {
    "invalid_request": 400,
    "authentication": 401,
    "access_denied": 403,
    "not_found": 404,
    "conflict": 409,
    "integrity": 422,
    "unavailable": 503,
}
# Where HTTP has a closer word than the family's.
_BY_CODE: Mapping[str, int] = {
    "too_large": 413,
    "too_slow": 408,
    "head_too_large": 431,
    "rate_limited": 429,
    "no_route": 404,
    "bad_method": 405,
    "bad_media_type": 415,
    "upload_closed": 409,
}
RETRY_AFTER_S = 1


def status_of(error: ModelVaultError) -> int:
    """The HTTP status of an error."""
    return _BY_CODE.get(error.code) or STATUS[error.family]


def answer(error: ModelVaultError, request: str, headers: Mapping[str, str] = {}) -> Response:
    """The error as a response to the request with this id."""
    status = status_of(error)
    more = dict(headers)
    if status == 401:
        more["WWW-Authenticate"] = "Bearer"
    if status in {429, 503}:
        more.setdefault("Retry-After", str(error.details.get("retry_after_s", RETRY_AFTER_S)))
    body = msgspec.json.encode(problem.of(error, status, request))
    return Response(body, status, more, media_type=problem.MEDIA_TYPE)


def _frames(failure: BaseException) -> list[str]:
    """Where it happened: names and lines, and nothing of what was in them."""
    stack = traceback.extract_tb(failure.__traceback__)
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in stack[-8:]]


def internal(failure: BaseException, request: str) -> Response:
    """A mistake of ours. Nothing of it is told: its text could hold anything."""
    _LOG.error(
        "a request failed unexpectedly",
        extra={"request": request, "failure": type(failure).__name__, "frames": _frames(failure)},
    )
    document = problem.Problem(
        type=problem.TYPE + "internal",
        title="internal",
        status=500,
        detail="the broker made a mistake",
        family="unavailable",
        hint="tell whoever runs it the request's id",
        instance=request,
    )
    return Response(msgspec.json.encode(document), 500, media_type=problem.MEDIA_TYPE)
