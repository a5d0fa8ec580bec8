"""The question as the policy reads it (AuthZEN's shape), and its answer read back.

Both directions are pure. The input holds what a verified token and verified documents say, and
never a token or a key. `context.now` is in whole milliseconds since the epoch, so that a rule
compares numbers and needs no builtin that can fail; `policies/modelvault_policies/
input.schema.json` describes the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from modelvault import canonical
from modelvault.access import OBLIGATION_TYPES, AccessRequest, Decision, Evaluation, Obligations
from modelvault.errors import Unavailable
from modelvault.policy.patterns import both

UNKNOWN_OBLIGATION = "unknown_obligation"
UNFULFILLED_OBLIGATION = "unfulfilled_obligation"
# A limit is kept by the broker itself; these need the other side's hands.
KEPT_BY_THE_LOADER = frozenset({"grace_s", "memory_only", "isolated_memory", "terminate_on_revoke"})

_POSITIVE = frozenset({"max_ttl_s", "max_total_s"})
_RESTRAINTS = frozenset({"memory_only", "isolated_memory"})
_FLAGS = _RESTRAINTS | {"allow_pickle"}


def to_input(request: AccessRequest) -> dict[str, Any]:
    """The document that `data.modelvault.authz.decision` is asked with."""
    who, what = request.principal, request.resource
    return {
        "subject": {
            "type": "principal",
            "id": who.id,
            "issuer": who.issuer,
            "groups": list(who.groups),
            "claims": dict(who.claims),
            "bound_by": who.bound_by,
        },
        "action": {"name": request.action},
        "resource": {
            "type": "model",
            "tenant": what.tenant,
            "id": what.id,
            "version": what.version,
            "manifest": what.manifest,
            "created_by": what.created_by,
            "owner": what.owner,
            "classification": what.classification,
            "labels": dict(what.labels),
            "hints": {"formats": list(what.formats), "pickles": list(what.pickles)},
            "files": list(what.files),
            "bytes": what.bytes,
        },
        "context": {
            "purpose": request.purpose,
            "purpose_bound_by": request.purpose_bound_by,
            "ticket": request.ticket,
            "destination": request.destination,
            "now": request.now,
            "source_ip": request.source_ip,
            "client": request.client,
            "supported_obligations": list(request.fulfils),
        },
    }


class _Obligation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: Annotated[str, Meta(max_length=256)]
    type: Annotated[str, Meta(min_length=1, max_length=64)]
    properties: dict[str, Any]


class _Context(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    reasons: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[!-~]{1,160}\Z")], ...], Meta(max_length=256)
    ]
    obligations: Annotated[tuple[_Obligation, ...], Meta(max_length=256)]


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    decision: bool
    context: _Context


def to_decision(evaluation: Evaluation) -> Decision:
    """The engine's answer as a Decision, with the strictest of each obligation.

    Anything but a well-formed document gives no decision at all: Unavailable
    (`policy_unavailable`), since an outage must not look like a deny. An obligation of a type that
    this vault doesn't know is well-formed, and is a deny with the reason `unknown_obligation`.
    """
    try:
        document = msgspec.convert(evaluation.document, _Document, strict=True)
    except (msgspec.ValidationError, RecursionError):
        raise _malformed("it isn't of the shape that policy.md gives") from None
    context = document.context
    known = [one for one in context.obligations if one.type in OBLIGATION_TYPES]
    decision = Decision(
        allowed=document.decision,
        reasons=context.reasons,
        obligations=_merge(known),
        revision=evaluation.revision,
        decision_id=evaluation.decision_id,
    )
    if len(known) < len(context.obligations):
        return _refused(decision, [UNKNOWN_OBLIGATION])
    return decision


def insist(decision: Decision, fulfils: Collection[str]) -> Decision:
    """`decision`, or a deny when an obligation stands that the asking side says it can't keep.

    Only what the loader must keep counts: limits of time, bytes, leases and files are kept by the
    broker, and `allow_pickle` only permits. Reasons: `unfulfilled_obligation:<type>`.
    """
    standing = {name for name in KEPT_BY_THE_LOADER if _stands(decision.obligations, name)}
    missing = sorted(standing - set(fulfils))
    if not decision.allowed or not missing:
        return decision
    return _refused(decision, [f"{UNFULFILLED_OBLIGATION}:{name}" for name in missing])


def _stands(obligations: Obligations, name: str) -> bool:
    value = getattr(obligations, name)
    if name == "terminate_on_revoke":  # at once is the strictest of all
        return value is not None
    return value not in (None, 0)


def _refused(decision: Decision, codes: Iterable[str]) -> Decision:
    """A deny whose reasons are denies only: the grants that fired before no longer matter."""
    before = () if decision.allowed else decision.reasons
    return msgspec.structs.replace(decision, allowed=False, reasons=(*before, *codes))


def _merge(obligations: Iterable[_Obligation]) -> Obligations:
    """Whole numbers: the smallest. Paths: what all allow. Restraints: if any says so;
    `allow_pickle`: only if each that speaks of it says so."""
    found: dict[str, Any] = {}
    for one in obligations:
        value: Any = _value(one)
        if one.type not in found:
            found[one.type] = value
        elif one.type == "files":
            found[one.type] = both(found[one.type], value)
        elif one.type in _RESTRAINTS:
            found[one.type] |= value
        else:  # of two booleans the smaller is False, and False is the strict one here
            found[one.type] = min(found[one.type], value)
    return Obligations(**found)


def _value(obligation: _Obligation) -> int | bool | tuple[str, ...]:
    value = obligation.properties.get("value")
    if len(obligation.properties) != 1:
        raise _malformed(f"an obligation of type {obligation.type} has other properties than value")
    if obligation.type == "files":
        if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            return tuple(sorted(set(value)))
    elif obligation.type in _FLAGS:
        if isinstance(value, bool):
            return value
    else:
        least = 1 if obligation.type in _POSITIVE else 0
        if type(value) is int and least <= value <= canonical.MAX_INTEGER:
            return value
    raise _malformed(f"an obligation of type {obligation.type} has an unfit value")


def _malformed(why: str) -> Unavailable:
    return Unavailable(
        "policy_unavailable",
        f"the policy's answer can't be used: {why}",
        "run `modelvault policy test`, and look at the site rules that were changed last",
    )
