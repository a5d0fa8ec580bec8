"""Plain values (numbers, texts, lists of them) as strict JSON, and back: what goes beside tensors.

None, booleans, texts and whole numbers up to 2^53 stand as they are, lists as lists. All else is an
object with one key that says what it is: a float in hexadecimal, so that it comes back to the bit,
a larger number, bytes, a tuple, a dict, a tensor by its name. Nothing in it can run, and reading it
builds nothing but these.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

from modelvault.canonical import MAX_INTEGER
from modelvault.errors import IntegrityError, InvalidRequest

KINDS = "keep numbers, texts, bytes, lists, tuples and dicts of them, and tensors"
MAX_DIGITS = 4000  # of a whole number: Python itself reads and writes 4,300 and no more
MAX_DEPTH = 9  # of dicts in dicts: each takes three levels of JSON's 32

Name = Callable[[tuple[object, ...], object], str | None]
Take = Callable[[str], object]


def encode(value: object, name: Name, *, where: tuple[object, ...] = ()) -> Any:  # noqa: ANN401
    """`value` as JSON values. `name(where, value)` gives the name that a tensor goes by, and None
    for what is none. Raises InvalidRequest (`not_plain`) that says where."""
    if len(where) > MAX_DEPTH:
        raise not_plain(where, "it is nested too deep", "flatten it")
    named = name(where, value)
    if named is not None:
        return {"tensor": named}
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, int):
        return int(value) if abs(value) <= MAX_INTEGER else {"int": _digits(value, where)}
    if isinstance(value, float):
        return {"float": float(value).hex()}
    if isinstance(value, bytes | bytearray):
        return {"bytes": base64.b64encode(value).decode("ascii")}
    if isinstance(value, list | tuple) and type(value) in {list, tuple}:
        items = [encode(one, name, where=(*where, at)) for at, one in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, Mapping):
        return {
            "dict": [
                [_key(key, where), encode(one, name, where=(*where, key))]
                for key, one in value.items()
            ]
        }
    raise not_plain(
        where,
        f"it is of the type {type(value).__name__!r}",
        KINDS,
    )


def decode(value: Any, tensor: Take) -> Any:  # noqa: ANN401
    """What `encode` was given; `tensor` gives those that it named. IntegrityError
    (`bad_checkpoint`) for anything that it wouldn't have made."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, list):
        return [decode(one, tensor) for one in value]
    if not isinstance(value, dict) or len(value) != 1:
        raise bad_checkpoint("a value that isn't one of the kinds that there are")
    ((kind, told),) = value.items()
    try:
        return _DECODE[kind](told, tensor)
    except (KeyError, TypeError, ValueError, OverflowError, binascii.Error):
        raise bad_checkpoint(f"a value that says to be {kind[:40]!r} and isn't") from None


def bad_checkpoint(what: str) -> IntegrityError:
    """A file beside the tensors that this library wouldn't have written."""
    return IntegrityError(
        "bad_checkpoint",
        f"not a sound checkpoint: {what}",
        "save it anew; versions that were made otherwise are read by state_dict()",
    )


def _key(key: object, where: tuple[object, ...]) -> Any:  # noqa: ANN401
    if key is None or isinstance(key, bool | int | str | float):
        return encode(key, _no_tensor, where=where)
    raise not_plain(where, f"a key of the type {type(key).__name__!r}", "use texts and numbers")


def _no_tensor(_where: tuple[object, ...], _value: object) -> None:
    return None


def _text(value: str, where: tuple[object, ...]) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise not_plain(where, "it isn't Unicode text", "keep it as bytes") from None
    return str(value)


def _digits(value: int, where: tuple[object, ...]) -> str:
    if abs(value) >= 10 ** (MAX_DIGITS - 1):  # a sign counts, too
        raise not_plain(where, f"it has {MAX_DIGITS:,} digits or more", "keep it as bytes")
    return str(int(value))


def _whole(told: Any, _tensor: Take) -> int:  # noqa: ANN401
    if not isinstance(told, str) or len(told) > MAX_DIGITS:
        raise TypeError
    return int(told)


def _pairs(told: Any, tensor: Take) -> dict[Any, Any]:  # noqa: ANN401
    found = {decode(key, tensor): decode(one, tensor) for key, one in told}
    if len(found) != len(told):
        raise ValueError
    return found


def _items(told: Any, tensor: Take) -> tuple[Any, ...]:  # noqa: ANN401
    if not isinstance(told, list):
        raise TypeError
    return tuple(decode(one, tensor) for one in told)


_DECODE: dict[str, Callable[[Any, Take], Any]] = {
    "int": _whole,
    "float": lambda told, _tensor: float.fromhex(told),
    "bytes": lambda told, _tensor: base64.b64decode(told, validate=True),
    "tuple": _items,
    "dict": _pairs,
    "tensor": lambda told, tensor: tensor(told),
}


def not_plain(where: tuple[object, ...], what: str, hint: str) -> InvalidRequest:
    """What stands there in a state can't be written down."""
    place = ".".join(str(part)[:80] for part in where) or "the state itself"
    return InvalidRequest("not_plain", f"{place} can't be saved: {what}", hint)
