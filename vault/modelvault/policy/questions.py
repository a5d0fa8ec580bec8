"""What to ask two policies to see where they differ: drawn from who and what their data names.

Tables of cases ask for groups that they made up; a vault has its own. So each holder of a grant of
either policy asks for each action, with each classification and for each purpose that one of them
knows: once as little as may be shown (a bearer's token, no ticket), once as much.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from typing import Any, get_args

import msgspec

from modelvault.access import OBLIGATION_TYPES, AccessRequest, Action, Principal, Resource
from modelvault.policy.bundle import Bundle
from modelvault.policy.document import to_input

NOW = 1_767_225_600_000  # a Thursday noon; rules about days of the week aren't looked through
KEY_ACTIONS = frozenset({"load", "renew", "export"})
_OWNER = "owner:somebody"
_NOBODY = "nobody:at-all"


class Question(msgspec.Struct, frozen=True):
    """An input for the rule, and what it is in words."""

    name: str
    input: dict[str, Any]


class _Holder(msgspec.Struct, frozen=True):
    name: str
    id: str
    groups: tuple[str, ...] = ()
    makes: bool = False  # whether a grant of theirs is for versions of their own alone


def drawn(old: Bundle, new: Bundle) -> tuple[Question, ...]:
    """All of them. What in the data isn't of its schema's shape asks for nothing."""
    both = (old.data, new.data)
    classes = sorted({name for data in both for name in _names(data, "classifications")})
    purposes = sorted({name for data in both for name in _names(data, "purposes")})
    return tuple(
        question
        for holder, tenant, model in _holders(both)
        for action in get_args(Action)
        for question in _of(holder, tenant, model, action, classes, purposes)
    )


def _of(
    holder: _Holder,
    tenant: str,
    model: str,
    action: Action,
    classes: list[str],
    purposes: list[str],
) -> Iterator[Question]:
    gives_keys = action in KEY_ACTIONS
    wanted: list[str | None] = [*purposes] if gives_keys else [None]
    makers = (None, holder.id) if holder.makes else (None,)
    for classification, purpose, maker in product(classes, wanted, makers):
        for much in (False, True) if gives_keys else (False,):
            words = [holder.name, action, f"{tenant}/{model}", classification]
            words += [] if purpose is None else [f"for {purpose}"]
            words += ["with a bound token and a ticket"] if much else []
            words += [] if maker is None else ["of its own making"]
            asked = _input(holder, tenant, model, action, classification, purpose, maker, much=much)
            yield Question(" ".join(words), asked)


def _input(
    holder: _Holder,
    tenant: str,
    model: str,
    action: Action,
    classification: str,
    purpose: str | None,
    maker: str | None,
    *,
    much: bool,
) -> dict[str, Any]:
    principal = Principal(
        id=holder.id,
        issuer=holder.id.partition(":")[0],
        groups=holder.groups,
        claims={},
        bound_by="key" if much else "bearer",
        issued_at=NOW,
        expires_at=NOW + 600_000,
    )
    resource = Resource(
        tenant=tenant,
        id=model,
        created_by=maker,
        owner=_OWNER,
        classification=classification,
        formats=("safetensors",),
        files=("config.json", "model.safetensors"),
        bytes=1,
    )
    return to_input(
        AccessRequest(
            principal=principal,
            action=action,
            resource=resource,
            now=NOW,
            purpose=purpose,
            purpose_bound_by="token" if much else "caller",
            ticket="TICKET-1" if much else None,
            fulfils=tuple(sorted(OBLIGATION_TYPES)),
        )
    )


def _holders(both: tuple[dict[str, Any], dict[str, Any]]) -> Iterator[tuple[_Holder, str, str]]:
    """Each with a tenant and a model that a grant of theirs is for. Of several that hold just the
    same grants in both, the first by name speaks for all."""
    yield _Holder("nobody", _NOBODY), "default", "model"
    named = sorted({one for data in both for grant in _grants(data) for one in _named(grant)})
    seen: set[str] = set()
    for holder in [_Holder("the owner", _OWNER), *(_holder(*one) for one in named)]:
        held = [[grant for grant in _grants(data) if _holds(grant, holder)] for data in both]
        alike = json.dumps([[_bare(grant) for grant in part] for part in held], sort_keys=True)
        if alike in seen:
            continue
        seen.add(alike)
        own = any(grant.get("own_versions") is True for part in held for grant in part)
        places = {
            (_example(tenant), _example(model))
            for part in held
            for grant in part
            for tenant in _texts(grant.get("tenants"))
            for model in _texts(grant.get("models"))
        }
        for tenant, model in sorted(places):
            yield msgspec.structs.replace(holder, makes=own), tenant, model


def _holder(kind: str, text: str) -> _Holder:
    if kind == "groups":
        return _Holder(f"group {text}", f"{text.partition(':')[0]}:somebody", (text,))
    return _Holder(_example(text), _example(text))


def _named(grant: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for kind in ("groups", "subjects"):
        for text in _texts(grant.get(kind)):
            yield kind, text


def _holds(grant: dict[str, Any], holder: _Holder) -> bool:
    if holder.id == _OWNER:
        return grant.get("owner") is True
    subjects = [_example(text) for text in _texts(grant.get("subjects"))]
    return bool(set(_texts(grant.get("groups"))) & set(holder.groups)) or holder.id in subjects


def _bare(grant: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in grant.items() if name not in {"groups", "subjects"}}


def _grants(data: dict[str, Any]) -> list[dict[str, Any]]:
    found = data.get("grants")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _names(data: dict[str, Any], part: str) -> list[str]:
    found = data.get(part)
    return list(found) if isinstance(found, dict) else []


def _texts(value: object) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _example(pattern: str) -> str:
    """A text that the pattern fits."""
    return "any" if pattern == "*" else pattern.replace("*", "x")
