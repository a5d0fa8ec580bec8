"""A request taken apart: who asks, from where, and what is in it."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

import msgspec
from fastapi import Request
from starlette.requests import ClientDisconnect

from modelvault.access import Caller
from modelvault.errors import AuthenticationError, InvalidRequest, Unavailable
from modelvault.wire.calls import API, HEADER, Call

MAX_TOKEN = 16 << 10
BODY_S = 30.0
_MAX_AGENT = 128
_JSON = "application/json"
_SECRETS = frozenset({"access_token", "token", "id_token", "authorization"})

Networks = tuple[IPv4Network | IPv6Network, ...]


def caller(request: Request, proxies: Networks) -> Caller:
    """The caller, by the bearer token of the Authorization header and nothing else (RFC 6750,
    section 2.1): a token in a URL would stand in the logs of every proxy.

    Raises AuthenticationError (`no_token`, `token_too_large`).
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
        raise AuthenticationError(
            "token_too_large", f"the token is over {MAX_TOKEN} bytes", "send the token alone"
        )
    agent = request.headers.get("user-agent", "")
    client = "".join(char for char in agent[:_MAX_AGENT] if char.isprintable())
    return Caller(token=token, source_ip=source(request, proxies), client=client)


def source(request: Request, proxies: Networks) -> str | None:
    """Where the request comes from: the connection's other end or, only where that is a proxy of
    ours, what the nearest address that isn't one is told to be."""
    address = _address(request.client.host) if request.client else None
    forwarded = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
    while address and _is_in(address, proxies) and forwarded and forwarded[-1].strip():
        address = _address(forwarded.pop().strip())
    return None if address is None else str(address)


async def body(request: Request, call: Call) -> bytes:
    """The whole body.

    Raises InvalidRequest (`too_large`) as soon as it is longer than the call's limit, (`too_slow`)
    when it isn't there after 30 s, (`bad_document`) where none is wanted; Unavailable (`cut_off`)
    when the other end has gone.
    """
    limit = call.limit if call.body is not None and call.method != "GET" else 0
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > limit:
        raise _too_large(limit)
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                data += part
                if len(data) > limit:
                    raise _too_large(limit)
    except TimeoutError:
        raise InvalidRequest(
            "too_slow", f"the request's body took longer than {BODY_S:.0f} s", "send it again"
        ) from None
    except ClientDisconnect:
        raise Unavailable("cut_off", "the request broke off", "send it again") from None
    return bytes(data)


def value(call: Call, request: Request, data: bytes) -> Any:  # noqa: ANN401  the call's body type
    """The call's argument, parsed strictly. Raises InvalidRequest (`bad_document`,
    `bad_media_type`, `token_in_address`, `other_api`)."""
    _check_api(request)
    query = _query(request)
    try:
        if call.method == "GET" and call.body is not None:
            return msgspec.convert(query, call.body, strict=False)
        if query:
            raise InvalidRequest("bad_document", "this call takes no query", "see openapi.json")
        if call.body is None:
            return None
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != _JSON:
            raise InvalidRequest("bad_media_type", "the body must be JSON", f"send {_JSON}")
        return msgspec.json.decode(data, type=call.body, strict=True)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError) as refused:
        told = "".join(char if char.isprintable() else "?" for char in str(refused)[:300])
        raise InvalidRequest("bad_document", f"the request isn't understood: {told}") from None
    except RecursionError:
        raise InvalidRequest("bad_document", "the request is nested too deep") from None


def _check_api(request: Request) -> None:
    """A client may say which interface it speaks; ours does."""
    spoken = request.headers.get(HEADER, API)
    if spoken != API:
        raise InvalidRequest(
            "other_api",
            f"this broker speaks version {API} of the interface",
            "use a client and a broker of versions that fit",
        )


def _query(request: Request) -> dict[str, str]:
    pairs = request.query_params.multi_items()
    if _SECRETS & {name.lower() for name, _ in pairs}:
        raise InvalidRequest(
            "token_in_address",
            "a token stood in the address, where every log on the way keeps it",
            "revoke it, and send tokens in the Authorization header only",
        )
    if len({name for name, _ in pairs}) != len(pairs):
        raise InvalidRequest("bad_document", "a parameter of the query stands there twice")
    return dict(pairs)


def _too_large(limit: int) -> InvalidRequest:
    if limit == 0:
        return InvalidRequest("too_large", "this call takes no body", "send none")
    return InvalidRequest("too_large", f"the request's body is over {limit} bytes", "send less")


def _is_in(address: IPv4Address | IPv6Address, networks: Networks) -> bool:
    return any(address in network for network in networks)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An address, where it is one. A socket for both kinds writes IPv4 as ::ffff:a.b.c.d: it is
    taken back to what networks in policies and settings mean."""
    try:
        parsed = ip_address(text)
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed
