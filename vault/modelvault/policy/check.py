"""What is wrong with a data.json: against its schema, and against itself."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

import jsonschema

from modelvault import canonical
from modelvault.errors import InvalidRequest
from modelvault.policy import bundle
from modelvault.policy.lines import Path, lines, nearest, repeated
from modelvault.policy.rego import Finding
from modelvault_policies import files

FILE = "data.json"
_GIVES_KEYS = frozenset({"load", "renew", "export"})
_GRANTS, _OWN = "data.modelvault.grants", "own_versions"
_OF_A_VERSION = _GIVES_KEYS | {"pull", "tag", "delete", "revoke"}


def check_data(
    text: str,
    models: Iterable[tuple[str, str]] | None = None,
    modules: Iterable[str] | None = None,
) -> list[Finding]:
    """Findings about a data.json, with their lines.

    With `models` (tenant and name of each model there is), patterns that match none of them are
    found too; with `modules` (texts of the Rego that it is for, where these aren't the shipped
    ones), what they don't read. Codes: `bad_json`, `unknown_key`, `missing_key`, `bad_value`,
    `unknown_role`, `unknown_classification`, `unknown_purpose`, `unused_role`, `never_applies`,
    `repeated_grant`, `matches_nothing`, `narrows_nothing`.
    """
    try:
        data = canonical.loads(text.encode("utf-8", "surrogatepass"), bundle.MAX_BYTES)
    except InvalidRequest as refused:
        return [_bad_json(text, refused.message)]
    where = lines(text)
    found = [_place(where, path, code, why) for path, code, why in _against_schema(data)]
    if not found:
        reports = (*_against_itself(data), *_unread(data, modules), *_without_match(data, models))
        found = [_place(where, path, code, why) for path, code, why in reports]
    return sorted(found)


def check_publishable(text: str, modules: Iterable[str]) -> None:
    """Raise InvalidRequest (`bad_policy`) where a data.json mustn't decide with these modules."""
    grave = [one for one in check_data(text, modules=modules) if one.grave]
    if grave:
        raise InvalidRequest(
            "bad_policy",
            f"policy data.json: {grave[0].text}",
            "`modelvault policy check` names the line, and what else there is",
        )


Report = tuple[Path, str, str]


def _place(where: dict[Path, int], path: Path, code: str, why: str) -> Finding:
    return Finding(FILE, nearest(where, path), code, why)


def _bad_json(text: str, why: str) -> Finding:
    """Where JSON ends to be JSON; some of what only our strict reading refuses has no line."""
    line = 0
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        line = error.lineno
    except (ValueError, RecursionError):
        pass
    else:
        if again := repeated(text):
            line, why = again[1], f"the key {again[0][-1]!r} stands twice in one object"
    return Finding(FILE, line, "bad_json", why)


_ISSUER = "; write the issuer in front: local:{}"


def _against_schema(data: object) -> Iterator[Report]:
    for error in jsonschema.Draft7Validator(files.schema("rules")).iter_errors(data):
        path: Path = tuple(error.absolute_path)
        if error.validator == "additionalProperties":
            for key in sorted(set(error.instance) - set(error.schema["properties"])):
                near = difflib.get_close_matches(key, error.schema["properties"], 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                yield (*path, key), "unknown_key", f"unknown key {key!r}{hint}"
        elif error.validator == "required":
            for key in sorted(set(error.validator_value) - set(error.instance)):
                yield path, "missing_key", f"{key!r} is missing"
        elif error.validator == "anyOf":
            yield path, "missing_key", "a grant names groups, subjects or owner"
        elif "propertyNames" in error.absolute_schema_path:
            why = f"{error.instance!r} isn't a name: lower case letters, digits, - and _"
            yield (*path, error.instance), "bad_value", why
        elif error.validator == "pattern" and path[2:3] in {("groups",), ("subjects",)}:
            mend = "" if ":" in error.instance else _ISSUER.format(error.instance)
            yield path, "bad_value", error.message[:200] + mend
        else:
            yield path, "bad_value", error.message[:200]


def _against_itself(data: dict[str, Any]) -> Iterator[Report]:
    yield from _roles(data)
    yield from _purposes(data)
    yield from _grants(data)
    for path, limits in _limits(data):
        if limits.get("max_ttl_s", 0) > limits.get("max_total_s", canonical.MAX_INTEGER):
            why = "max_ttl_s is longer than max_total_s, which ends the lease first"
            yield (*path, "max_ttl_s"), "never_applies", why


def _roles(data: dict[str, Any]) -> Iterator[Report]:
    given = {grant["role"] for grant in data["grants"]}
    for name, role in data["roles"].items():
        path: Path = ("roles", name)
        yield from _unknown(path, role, "classifications", data["classifications"])
        yield from _unknown(path, role, "purposes", data["purposes"])
        if _GIVES_KEYS.intersection(role["actions"]) and not role["purposes"]:
            why = f"role {name!r} may load, renew or export, but for no purpose"
            yield path, "never_applies", why
        if not role["classifications"]:
            yield path, "never_applies", f"role {name!r} covers no classification"
        if name not in given:
            yield path, "unused_role", f"no grant gives role {name!r}"


def _purposes(data: dict[str, Any]) -> Iterator[Report]:
    for name, purpose in data["purposes"].items():
        path: Path = ("purposes", name)
        yield from _unknown(path, purpose, "classifications", data["classifications"])
        yield from _unknown(path, purpose, "ticket_for", data["classifications"])
        if not any(_serves(role, name, purpose) for role in data["roles"].values()):
            yield path, "never_applies", f"no role can act for purpose {name!r}"


def _grants(data: dict[str, Any]) -> Iterator[Report]:
    for number, grant in enumerate(data["grants"]):
        if grant["role"] not in data["roles"]:
            why = f"no role is named {grant['role']!r}"
            yield ("grants", number, "role"), "unknown_role", why
        elif grant.get(_OWN):
            yield from _of_own_versions(number, grant["role"], data["roles"][grant["role"]])
        if grant in data["grants"][:number]:
            yield ("grants", number), "repeated_grant", "the same grant stands above"


def _of_own_versions(number: int, name: str, role: dict[str, Any]) -> Iterator[Report]:
    lost = [action for action in role["actions"] if action not in _OF_A_VERSION]
    if lost:
        why = (
            f"role {name!r} may {', '.join(lost)}, which is about no version: that takes a grant "
            "without own_versions"
        )
        yield ("grants", number, _OWN), "never_applies", why


def _unread(data: dict[str, Any], modules: Iterable[str] | None) -> Iterator[Report]:
    """Rego from before a key was known grants as if it weren't there: to everybody named, for all
    versions."""
    readers = [module for module in modules or () if _GRANTS in module]
    if not readers or any(_OWN in module for module in readers):
        return
    for number, grant in enumerate(data["grants"]):
        if grant.get(_OWN):
            why = f"no Rego over the grants reads {_OWN}: this grant would be for all versions"
            yield ("grants", number, _OWN), "narrows_nothing", why


def _unknown(
    path: Path, holder: dict[str, Any], key: str, known: dict[str, Any]
) -> Iterator[Report]:
    kind = {"purposes": "purpose"}.get(key, "classification")
    for number, name in enumerate(holder.get(key, ())):
        if name != "*" and name not in known:
            yield (*path, key, number), f"unknown_{kind}", f"no {kind} is named {name!r}"


def _serves(role: dict[str, Any], name: str, purpose: dict[str, Any]) -> bool:
    return bool({name, "*"} & set(role["purposes"])) and bool(
        set(role["actions"]) & set(purpose["actions"])
    )


def _limits(data: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    yield ("limits",), data["limits"]
    for part in ("roles", "classifications", "purposes"):
        for name, holder in data[part].items():
            yield (part, name, "limits"), holder.get("limits", {})


def _without_match(
    data: dict[str, Any], models: Iterable[tuple[str, str]] | None
) -> Iterator[Report]:
    if models is None:
        return
    known = list(models)
    for number, grant in enumerate(data["grants"]):
        tenants = grant["tenants"]
        names = {name for tenant, name in known if _any(tenants, tenant)}
        for place, pattern in enumerate(grant["models"]):
            if pattern != "*" and not any(fnmatchcase(name, pattern) for name in names):
                why = f"no model in these tenants matches {pattern!r}"
                yield ("grants", number, "models", place), "matches_nothing", why
        for place, pattern in enumerate(tenants):
            if pattern != "*" and not any(fnmatchcase(tenant, pattern) for tenant, _ in known):
                why = f"no tenant with a model matches {pattern!r}"
                yield ("grants", number, "tenants", place), "matches_nothing", why


def _any(patterns: list[str], text: str) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)
