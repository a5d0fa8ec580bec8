"""What modules may contain."""

from __future__ import annotations

import json

import pytest

from modelvault.policy.rego import ALLOWED, Facts, Name, inspect
from modelvault_policies import files

OPERATORS = {
    "and", "assign", "div", "eq", "equal", "gt", "gte", "internal.member_2", "internal.member_3",
    "lt", "lte", "minus", "mul", "neq", "or", "plus", "rem",
}  # fmt: skip


def module(path="a.rego", package="modelvault.authz", rules=("decision",), references=()):
    return Facts(
        path=path,
        package=package,
        rules=tuple(Name(name, 3) for name in rules),
        references=tuple(Name(name, 4) for name in references),
    )


def codes(*modules, document=None):
    return [one.code for one in inspect(modules, document or {})]


def test_opas_capabilities_allow_the_same_builtins():
    capabilities = json.loads(files.capabilities_text())
    names = {builtin["name"] for builtin in capabilities["builtins"]}
    assert names - OPERATORS == ALLOWED
    assert names >= OPERATORS
    assert capabilities["allow_net"] == []


@pytest.mark.parametrize(
    "name",
    ["http.send", "time.now_ns", "rand.intn", "opa.runtime", "uuid.rfc4122", "net.lookup_ip_addr",
     "io.jwt.decode_verify", "crypto.x509.parse_certificates", "rego.parse_module", "print",
     "trace", "json.match_schema", "json.no_such"],
)  # fmt: skip
def test_builtins_that_policies_may_not_use(name):
    (found,) = inspect([module(references=[name])], {})
    assert (found.code, found.line, found.file) == ("forbidden_builtin", 4, "a.rego")
    assert name in found.text


@pytest.mark.parametrize(
    "name", ["count", "json.marshal", "glob.match", "own", "lib.own", "grant.role"]
)
def test_pure_builtins_own_functions_and_variables_may_be_used(name):
    assert codes(module(references=[name])) == []


@pytest.mark.parametrize(
    ("modules", "found"),
    [
        ([], ["missing_entrypoint"]),
        ([module(rules=["decide"])], ["missing_entrypoint"]),
        ([module(package="other")], ["missing_entrypoint"]),
        ([module(), module("site/a.rego", "modelvault.site", ["grants", "_own", "denies"])], []),
        ([module(), module("site/a.rego", "modelvault.site", ["deny"])], ["unknown_site_rule"]),
        ([module(), module("site/a.rego", "modelvault.authz", ["grants"])], ["wrong_package"]),
        ([module(), module("site/a.rego", "modelvault.sites", ["grants"])], ["wrong_package"]),
    ],
)
def test_packages_and_rules(modules, found):
    assert codes(*modules) == found


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ({"modelvault": {"roles": {}}}, []),
        ({"other": {"authz": {}}}, []),
        ({"modelvault": {"authz": {}}}, ["data_over_rules"]),
        ({"modelvault": {"authz": {"decision": {"decision": True}}}}, ["data_over_rules"]),
        ({"modelvault": 3}, ["data_over_rules"]),
    ],
)
def test_data_may_not_stand_where_rules_are(document, found):
    assert codes(module(), document=document) == found
