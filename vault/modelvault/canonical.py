"""JSON as we sign, hash and read it: RFC 8785 out, strict in.

Out: no white space, keys sorted by UTF-16 code units, integers only. In: duplicate keys, floats,
NaN, integers beyond 2^53-1, lone surrogates, depth over 32, sizes over the caller's limit and
bytes that aren't UTF-8 are refused, and so is every field that the wanted type doesn't have.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from modelvault.errors import IntegrityError, InvalidRequest, ModelVaultError

T = TypeVar("T")

MAX_DEPTH = 32
MAX_INTEGER = 2**53 - 1
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ALL_SQUARE = bytes.maketrans(b"{}", b"[]")


def dumps(value: object) -> bytes:
    """The RFC 8785 form of `value`, which may hold dict, list, tuple, str, int, bool and None.

    Raises InvalidRequest for anything else (floats have no place in what we sign), and for what
    is nested too deep for `loads`.
    """
    try:
        text = json.dumps(
            _ordered(value, MAX_DEPTH), ensure_ascii=False, separators=(",", ":"), allow_nan=False
        )
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidRequest("bad_json", "text holds a lone surrogate") from None


def loads(data: bytes | bytearray | memoryview, limit: int) -> Any:  # noqa: ANN401
    """The value of a JSON text of at most `limit` bytes.

    Raises InvalidRequest with a code of `too_large`, `too_deep` or `bad_json`.
    """
    return _loads(data, limit, _no_float)


def loads_foreign(data: bytes | bytearray | memoryview, limit: int) -> Any:  # noqa: ANN401
    """As `loads`, but with fractions: for documents that other programs write and nobody signs."""
    return _loads(data, limit, float)


def _loads(
    data: bytes | bytearray | memoryview, limit: int, parse_float: Callable[[str], object]
) -> Any:  # noqa: ANN401
    if len(data) > limit:
        raise InvalidRequest("too_large", f"JSON of {len(data)} bytes; the limit is {limit}")
    raw = bytes(data)
    _check_depth(raw)
    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_float=parse_float,
            parse_constant=_no_float,
            parse_int=_small_integer,
        )
        if b"\\u" in raw:  # only an escape can bring a surrogate in: bytes are checked as UTF-8
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidRequest("bad_json", "not strict JSON: text holds a lone surrogate") from None
    except ValueError as error:
        raise InvalidRequest("bad_json", f"not strict JSON: {_reason(error)}") from None
    return value


def encode(value: object) -> bytes:
    """The canonical bytes of a value type (a msgspec Struct); bytes fields become base64 text."""
    return dumps(msgspec.to_builtins(value))


def decode(
    data: bytes | bytearray | memoryview,
    wanted: type[T],
    *,
    limit: int,
    what: str,
    error: type[ModelVaultError] = IntegrityError,
) -> T:
    """`data` as a `wanted`, parsed strictly; `what` names the document in the message.

    Raises `error` with a code of `too_large`, `too_deep`, `bad_json` or `bad_document`.
    """
    try:
        value = loads(data, limit)
    except InvalidRequest as refused:
        raise error(refused.code, f"{what}: {refused.message}", _hint(error)) from None
    return convert(value, wanted, what=what, error=error)


def convert(
    value: object,
    wanted: type[T],
    *,
    what: str,
    error: type[ModelVaultError] = IntegrityError,
) -> T:
    """An already parsed JSON value as a `wanted`; raises `error` with code `bad_document`."""
    try:
        return msgspec.convert(value, wanted, strict=True)
    except msgspec.ValidationError as refused:
        # The message names the field and the types; a name may be the document's own word.
        reason = "".join(char if char.isprintable() else "?" for char in str(refused)[:300])
        raise error("bad_document", f"{what}: {reason}", _hint(error)) from None


def _hint(error: type[ModelVaultError]) -> str:
    """What to do about a document that was ours once; a request's own words need no advice."""
    damaged = issubclass(error, IntegrityError)
    return "it was cut or altered: restore it from a copy, nothing of it was used" * damaged


def _ordered(value: object, depth: int) -> object:
    if isinstance(value, dict | list | tuple) and depth == 0:
        raise InvalidRequest("too_deep", f"JSON nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise InvalidRequest("bad_json", "an object's key isn't text")
        return {key: _ordered(value[key], depth - 1) for key in sorted(value, key=_utf16)}
    if isinstance(value, list | tuple):
        return [_ordered(item, depth - 1) for item in value]
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise InvalidRequest("bad_json", "an integer is beyond 2^53-1")
        return value
    raise InvalidRequest("bad_json", f"{type(value).__name__} has no canonical JSON form here")


def _utf16(key: str) -> bytes:
    return key.encode("utf-16-be", "surrogatepass")


def _check_depth(raw: bytes) -> None:
    """Refuse deep nesting before the parser recurses; in the time of a few copies of `raw`."""
    # Without escaped quotes each second piece between quotes is outside of strings.
    outside = b"".join(raw.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2])
    brackets = outside.translate(_ALL_SQUARE, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
    # Each round took the innermost pairs. A pair that is left had 32 others in it; what never
    # closes is nested too, until the parser finds that out.
    if b"[]" in brackets or brackets.count(b"[") > MAX_DEPTH:
        raise InvalidRequest("too_deep", f"JSON nested deeper than {MAX_DEPTH}")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_float(_text: str) -> object:
    raise ValueError("a number isn't a whole number")


def _small_integer(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > MAX_INTEGER:
        raise ValueError("an integer is beyond 2^53-1")
    return int(text)


def _reason(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    if isinstance(error, UnicodeDecodeError):
        return "bytes that aren't UTF-8"
    return str(error)
