"""What a broker's answer means: a value, an error of its own, or no answer at all.

A deny wipes running jobs, so only a broker's own word is one: whatever isn't surely its (a proxy's
403, a login page, half a body, another interface) is Unavailable.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from modelvault.errors import AuthenticationError, ModelVaultError, Unavailable
from modelvault.wire import problem
from modelvault.wire.calls import API, HEADER, Call
from modelvault.wire.problem import MAX_PROBLEM, MEDIA_TYPE, Problem

SKEW_MS = 30_000
_JSON = "application/json"
_OTHERS = "something on the way answered instead of it"
_STRANGE = "its answer isn't understood: is it of another version?"
# What OpenSSL calls the broker's refusal of a client's certificate, or of a client without one.
_UNKNOWN_CLIENT = ("CERTIFICATE_REQUIRED", "UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN",
                   "CERTIFICATE_EXPIRED", "HANDSHAKE_FAILURE")  # fmt: skip

Headers = Mapping[str, str]


def value(call: Call, status: int, headers: Headers, data: bytes) -> Any:  # noqa: ANN401
    """The call's value. Raises what the broker raised, or Unavailable."""
    _check_api(headers)
    if not 200 <= status < 300:
        raise _refusal(status, headers, data)
    if call.answer is None:
        if status != 204:
            raise unavailable(_STRANGE)
        return None
    if status != 200 or _media_type(headers) != _JSON:
        raise unavailable(_STRANGE)
    try:
        return msgspec.json.decode(data, type=call.answer, strict=True)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        raise unavailable(_STRANGE) from None


def skewed(error: AuthenticationError, headers: Headers, now: int) -> AuthenticationError:
    """A refused token, with the one cause that nobody thinks of: the clocks differ."""
    try:
        theirs = int(parsedate_to_datetime(headers.get("date", "")).timestamp() * 1000)
    except (TypeError, ValueError, OverflowError):
        return error
    skew_ms = now - theirs
    if abs(skew_ms) < SKEW_MS:
        return error
    way = "ahead of" if skew_ms > 0 else "behind"
    return AuthenticationError(
        error.code,
        f"{error.message} (this machine's clock is {abs(skew_ms) // 1000} s {way} the broker's)",
        "set this machine's clock, then get a fresh token",
        **dict(error.details),
    )


def untrusted(url: str, cause: object) -> Unavailable:
    """Why TLS with the broker failed, where trust is the reason; else it is an outage."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Unavailable(
            "broker_untrusted",
            f"the certificate of {url} can't be verified: {cause.verify_message}",
            "name the CA's PEM file with MODELVAULT_CA or the profile's `ca`, and check the host "
            "name",
        )
    reason = (cause.reason or "") if isinstance(cause, ssl.SSLError) else ""
    if any(name in reason for name in _UNKNOWN_CLIENT):
        return Unavailable(
            "client_untrusted",
            f"{url} wants a client certificate that it knows",
            "name one with the profile's `certificate` and `key`",
        )
    return unavailable("TLS with it failed, or broke off")


def unavailable(why: str) -> Unavailable:
    """No usable answer."""
    return Unavailable(
        "broker_unavailable",
        f"the broker gives no answer: {why}",
        "check its address and the network; a loaded model lives on until its lease and grace end",
    )


def _check_api(headers: Headers) -> None:
    """Every answer of a broker's program names its interface; those of proxies, portals and the
    server below it don't."""
    spoken = headers.get(HEADER)
    if spoken is None:
        raise unavailable(_OTHERS)
    if spoken != API:
        raise Unavailable(
            "other_api",
            f"the broker speaks another version of the interface than {API}",
            "use a client and a broker of versions that fit",
        )


def _refusal(status: int, headers: Headers, data: bytes) -> ModelVaultError:
    if _media_type(headers) != MEDIA_TYPE or len(data) > MAX_PROBLEM:
        return unavailable(_OTHERS)
    try:
        document = msgspec.json.decode(data, type=Problem, strict=True)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return unavailable(_STRANGE)
    if document.status != status:
        return unavailable(_OTHERS)
    return problem.error_of(document)


def _media_type(headers: Headers) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()
