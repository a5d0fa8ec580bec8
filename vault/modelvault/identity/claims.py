"""What an issuer's configuration makes of a token's claims: subject, groups, instance.

The claims come from a verified token, and still are somebody's words: whoever names a branch, an
environment or a pod chooses text in here. So each has a pattern, and what doesn't fit refuses the
token rather than just missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from modelvault.errors import AuthenticationError
from modelvault.identity.issuer import Field, Issuer

MAX_TEXT = 256
MAX_GROUPS = 256


def fields(payload: Mapping[str, Any], issuer: Issuer) -> dict[str, str]:
    """{name: text} of the issuer's fields that the token has.

    Raises AuthenticationError: `missing_claim`; `unfit_claim` where one isn't what the
    configuration wants. Names of claims are told, their contents aren't.
    """
    found = {}
    for field in issuer.fields:
        text = _text(_at(payload, field), field)
        if text is not None:
            _check(text, field, issuer)
            found[field.name] = text
    return found


def subject(sub: str, found: dict[str, str], issuer: Issuer) -> str:
    """The principal's id, the issuer's name in front. Raises AuthenticationError (`unfit_claim`,
    `missing_claim`)."""
    if issuer.sub_is is not None and issuer.sub_is.of(found) != sub:
        raise AuthenticationError(
            "unfit_claim",
            f"the token's 'sub' says something else than its claims, for issuer {issuer.name}",
            "ask for a token of the kind that this issuer is configured for",
        )
    if not issuer.subjects:
        return f"{issuer.name}:{_printable(sub, 'sub')}"
    for derived in issuer.subjects:
        text = derived.of(found)
        if text is not None:
            return f"{issuer.name}:{_printable(text, 'the subject')}"
    raise AuthenticationError(
        "missing_claim",
        f"the token has none of the claims that issuer {issuer.name}'s subjects are made of",
        "ask for a token of the kind that this issuer is configured for",
    )


def groups(payload: Mapping[str, Any], found: dict[str, str], issuer: Issuer) -> tuple[str, ...]:
    """The groups, sorted, the issuer's name in front of each."""
    listed = [] if issuer.groups_claim is None else payload.get(issuer.groups_claim, [])
    if not isinstance(listed, list) or len(listed) > MAX_GROUPS:
        raise malformed(f"the groups claim isn't a list of at most {MAX_GROUPS}")
    made = (derived.of(found) for derived in issuer.groups)
    texts = [*listed, *(text for text in made if text is not None)]
    return tuple(sorted({f"{issuer.name}:{_printable(text, 'a group')}" for text in texts}))


def _at(payload: Mapping[str, Any], field: Field) -> object:
    value: object = payload
    for step in field.path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(step)
    return value


def _text(value: object, field: Field) -> str | None:
    # Issuers write ids as digits or as numbers, and yes and no as text or not.
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    # Some write an empty text where they have nothing to say.
    if value is None or value == "":
        if field.optional:
            return None
        raise AuthenticationError(
            "missing_claim",
            f"the token has no {'.'.join(field.path)!r}",
            "ask for a token of the kind that this issuer is configured for",
        )
    return _printable(value, ".".join(field.path))


def _check(text: str, field: Field, issuer: Issuer) -> None:
    if re.fullmatch(field.pattern, text, re.ASCII) and (not field.values or text in field.values):
        return
    raise AuthenticationError(
        "unfit_claim",
        f"the token's {'.'.join(field.path)!r} isn't one that issuer {issuer.name} is trusted for",
        "use a workload that the vault's configuration names, or have it added there",
    )


def _printable(value: object, what: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TEXT or not value.isprintable():
        raise malformed(f"{what!r} isn't 1 to {MAX_TEXT} printable characters")
    return value


def malformed(why: str) -> AuthenticationError:
    """A token of a shape that no configured issuer gives."""
    return AuthenticationError(
        "malformed_token",
        f"this isn't a usable token: {why}",
        "get a fresh token from your issuer",
    )
