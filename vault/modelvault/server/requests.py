"""A request taken apart: who asks, from where, and what is in it."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

import msgspec
from fastapi import Request

from modelvault.access import Caller
from modelvault.errors import AuthenticationError, InvalidRequest
from modelvault.wire.calls import Call

MAX_TOKEN = 16 << 10
_MAX_AGENT = 128
_JSON = "application/json"


def caller(request: Request, proxies: tuple[IPv4Network | IPv6Network, ...]) -> Caller:
    """The caller, by the bearer token of the Authorization header and nothing else (RFC 6750,
    section 2.1): a token in a URL would stand in the logs of every proxy.

    Raises AuthenticationError (`no_token`, `bad_token`).
    """
    given = request.headers.getlist("authorization")
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise AuthenticationError(
            "no_token",
            "the request shows no token",
            "send `Authorization: Bearer <token>`, once",
        )
    if len(token) > MAX_TOKEN:
        raise AuthenticationError("bad_token", "the token is too long", "16 KiB are taken")
    agent = request.headers.get("user-agent", "")
    client = "".join(char for char in agent[:_MAX_AGENT] if char.isprintable())
    return Caller(token=token, source_ip=source(request, proxies), client=client)


def source(request: Request, proxies: tuple[IPv4Network | IPv6Network, ...]) -> str | None:
    """Where the request comes from: the connection's other end or, only where that is a proxy of
    ours, what the nearest address that isn't one is told to be."""
    address = request.client.host if request.client else None
    forwarded = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
    while address and _is_in(address, proxies) and forwarded and forwarded[-1].strip():
        address = forwarded.pop().strip()
    return address if address is None or _is_address(address) else None


async def body(request: Request, limit: int) -> bytes:
    """The whole body. Raises InvalidRequest (`too_large`) as soon as it is longer than `limit`."""
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > limit:
        raise _too_large(limit)
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > limit:
            raise _too_large(limit)
    return bytes(data)


def value(call: Call, request: Request, data: bytes) -> Any:  # noqa: ANN401  the call's body type
    """The call's argument, parsed strictly. Raises InvalidRequest (`bad_document`)."""
    if call.body is None:
        return None
    try:
        if call.method == "GET":
            return msgspec.convert(_query(request), call.body, strict=False)
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != _JSON:
            raise InvalidRequest("bad_media_type", "the body must be JSON", f"send {_JSON}")
        return msgspec.json.decode(data, type=call.body, strict=True)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError) as refused:
        told = "".join(char if char.isprintable() else "?" for char in str(refused)[:300])
        raise InvalidRequest("bad_document", f"the request isn't understood: {told}") from None
    except RecursionError:
        raise InvalidRequest("bad_document", "the request is nested too deep") from None


def _query(request: Request) -> dict[str, str]:
    pairs = request.query_params.multi_items()
    if len({name for name, _ in pairs}) != len(pairs):
        raise InvalidRequest("bad_document", "a parameter of the query stands there twice")
    return dict(pairs)


def _too_large(limit: int) -> InvalidRequest:
    return InvalidRequest("too_large", f"the request's body is over {limit} bytes", "send less")


def _is_in(address: str, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
