"""What Rego modules may contain: decided from facts that an engine's parser reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

AUTHZ = "modelvault.authz"
SITE = "modelvault.site"
ENTRYPOINT = "decision"
SITE_RULES = frozenset({"grants", "denies", "obligations"})

# Builtins whose answer depends on nothing but their arguments, and that both engines have.
_PURE = """
    abs array.concat array.reverse array.slice base64.decode base64.encode base64.is_valid
    base64url.decode base64url.encode base64url.encode_no_pad bits.and bits.lsh bits.negate
    bits.or bits.rsh bits.xor ceil concat contains count endswith floor format_int glob.match
    glob.quote_meta graph.reachable hex.decode hex.encode indexof indexof_n intersection
    is_array is_boolean is_null is_number is_object is_set is_string json.filter json.is_valid
    json.marshal json.patch json.remove json.unmarshal lower max min net.cidr_contains
    net.cidr_is_valid numbers.range object.filter object.get object.keys object.remove
    object.subset object.union object.union_n product regex.find_n regex.is_valid regex.match
    regex.replace regex.split replace round semver.compare semver.is_valid sort split sprintf
    startswith strings.any_prefix_match strings.any_suffix_match strings.count strings.replace_n
    strings.reverse substring sum time.add_date time.clock time.date time.diff time.format
    time.parse_duration_ns time.parse_ns time.parse_rfc3339_ns time.weekday to_number trim
    trim_left trim_prefix trim_right trim_space trim_suffix type_name union units.parse
    units.parse_bytes upper walk
"""
ALLOWED = frozenset(_PURE.split())
# First parts of builtins' names; a call below one of these is a builtin, whatever it says.
_FIRST_PARTS = """
    __builtin_sets array base64 base64url bits crypto glob graph graphql hex http internal io
    json net numbers object opa providers rand regex rego semver strings time units uri urlquery
    uuid yaml
"""
_NAMESPACES = frozenset(_FIRST_PARTS.split())
# Without a dot, and never allowed: they write.
_TALKATIVE = frozenset({"print", "trace"})


# Findings about what does no harm but for doing nothing.
_ADVICE = frozenset(
    {"unused_role", "never_applies", "repeated_grant", "matches_nothing", "not_formatted"}
    | {"not_covered"}
)


class Name(msgspec.Struct, frozen=True, array_like=True):
    """A rule's name, or a dotted reference, and the line where it stands."""

    text: str
    line: int


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the parser says of one module.

    `package` is without the leading `data.`; `references` are those that begin with neither `data`
    nor `input`, and the names of functions called.
    """

    path: str
    package: str
    rules: tuple[Name, ...]
    references: tuple[Name, ...]


class Finding(msgspec.Struct, frozen=True, order=True):
    """Something wrong with the policies: where, a stable code, and a line for people.

    `line` counts from 1; 0 means the file as a whole.
    """

    file: str
    line: int
    code: str
    text: str

    @property
    def grave(self) -> bool:
        """Whether policies with it mustn't be published; the others are advice."""
        return self.code not in _ADVICE


def inspect(facts: Iterable[Facts], document: Mapping[str, Any]) -> list[Finding]:
    """All that makes a set of modules unfit to decide with, and unsafe or mistaken site rules."""
    modules = list(facts)
    found = [finding for one in modules for finding in (*_builtins(one), *_site(one))]
    found += [finding for one in modules for finding in _covered_by_data(one, document)]
    if not any(one.package == AUTHZ and _defines(one, ENTRYPOINT) for one in modules):
        text = f"no module defines data.{AUTHZ}.{ENTRYPOINT}"
        found.append(Finding("modelvault/authz/authz.rego", 0, "missing_entrypoint", text))
    return sorted(found)


def _builtins(module: Facts) -> Iterable[Finding]:
    for name in module.references:
        if name.text in ALLOWED or ("." not in name.text and name.text not in _TALKATIVE):
            continue
        if name.text in _TALKATIVE or name.text.split(".")[0] in _NAMESPACES:
            text = f"{name.text} isn't among the builtins that policies may use"
            yield Finding(module.path, name.line, "forbidden_builtin", text)


def _site(module: Facts) -> Iterable[Finding]:
    """A site file may write its own package only, and a rule that nothing reads is a mistake."""
    if not module.path.startswith("site/"):
        return
    if module.package != SITE:
        yield Finding(module.path, 1, "wrong_package", f"site rules belong into package {SITE}")
        return
    for rule in module.rules:
        if rule.text not in SITE_RULES and not rule.text.startswith("_"):
            text = f"nothing reads {rule.text}: a site has grants, denies, obligations and _helpers"
            yield Finding(module.path, rule.line, "unknown_site_rule", text)


def _covered_by_data(module: Facts, document: Mapping[str, Any]) -> Iterable[Finding]:
    """Data at a package's place would silently take its rules' place."""
    node: object = document
    for part in module.package.split("."):
        if isinstance(node, Mapping) and part not in node:
            return
        node = node[part] if isinstance(node, Mapping) else None
    text = f"data.json has a value where the rules of {module.package} are"
    yield Finding("data.json", 0, "data_over_rules", text)


def _defines(module: Facts, rule: str) -> bool:
    return any(name.text == rule for name in module.rules)
