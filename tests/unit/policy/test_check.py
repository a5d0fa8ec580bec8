"""Findings about data.json."""

from __future__ import annotations

import json

import jsonschema
import pytest

from modelvault.errors import InvalidRequest
from modelvault.policy import cases
from modelvault.policy.check import check_data, check_publishable
from modelvault.policy.rego import Finding
from modelvault_policies import files

SHIPPED = files.data_text()


def line_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


def test_the_schemas_are_schemas():
    for name in ("rules", "input"):
        jsonschema.Draft7Validator.check_schema(files.schema(name))


def test_the_shipped_data_has_no_finding():
    assert check_data(SHIPPED) == []
    assert check_data(SHIPPED, [("default", "minilm")]) == []


def test_the_data_of_every_shipped_table_fits_the_schema():
    for data in [case.data for case in cases.shipped() if case.data]:
        jsonschema.Draft7Validator(files.schema("rules")).validate(data)


@pytest.mark.parametrize(
    ("old", "new", "code", "word"),
    [
        ('"refuse_pickles"', '"refuse_pickels"', "unknown_key", "did you mean 'refuse_pickles'"),
        ('"limits": {"max_bytes', '"ok": 1, "limits": {"max_bytes', "unknown_key", "'ok'"),
        ('"groups": ["local:admins"], ', "", "missing_key", "groups, subjects or owner"),
        ('"owner": true', '"owner": false', "bad_value", "True"),
        ('"own_versions": true', '"own_versions": "yes"', "bad_value", "True"),
        ('"role": "checkpoint-keeper"', '"role": "trainer"', "never_applies", "'trainer' may push"),
        ('"grace_s": 60,', '"grace_s": -1,', "bad_value", "-1"),
        ('"max_ttl_s": 86400', '"max_ttl_s": "1 d"', "bad_value", "integer"),
        ('"max_ttl_s": 86400', '"max_tll_s": 86400', "unknown_key", "max_ttl_s"),
        ('"pusher": {', '"Pusher": {', "bad_value", "isn't a name"),
        ('["local:pushers"]', '["pushers"]', "bad_value", "in front: local:pushers"),
        ('["local:pushers"]', '["local:*"]', "bad_value", "does not match"),
        ('"groups": ["local:pushers"]', '"subjects": ["*:x"]', "bad_value", "does not match"),
        ('"groups": ["local:pushers"]', '"subjects": ["a:[x]"]', "bad_value", "does not match"),
        ('"tenants": ["*"]', '"tenants": []', "bad_value", ""),
        ('["load", "renew", "export"]\n', '["load", "read"]\n', "bad_value", "'read'"),
        ('"role": "pusher"', '"role": "pushers"', "unknown_role", "'pushers'"),
        ('["evaluation", "fine-', '["evaluations", "fine-', "unknown_purpose", "'evaluations'"),
        ('"ticket_for": ["restricted"]', '"ticket_for": ["secret"]', "unknown_classification", ""),
        ('["public", "internal", "restricted"]', '["publik"]', "unknown_classification", "publik"),
        ('"purposes": ["inference"]', '"purposes": []', "never_applies", "for no purpose"),
        ('["public", "internal", "restricted"]', "[]", "never_applies", "no classification"),
        ('"max_total_s": 604800', '"max_total_s": 60', "never_applies", "longer"),
        ("{\n", "{\n{", "bad_json", ""),
        ('"max_ttl_s": 86400', '"max_ttl_s": 1.5', "bad_json", "whole number"),
        ('"grace_s": 60,', '"grace_s": 60, "grace_s": 6,', "bad_json", "'grace_s' stands twice"),
    ],
)
def test_each_mistake_is_found_in_its_line(old, new, code, word):
    assert old in SHIPPED
    text = SHIPPED.replace(old, new, 1)
    found = [one for one in check_data(text) if one.code == code]
    assert found
    assert word in found[0].text
    if not (code == "bad_json" and "1.5" in new):
        near = line_of(SHIPPED, old)
        assert any(abs(one.line - near) <= 3 for one in found), (found, near)
    assert len({one.code for one in check_data(text)}) <= 2


def test_a_missing_part_is_named():
    data = json.loads(SHIPPED)
    del data["purposes"]
    assert check_data(json.dumps(data)) == [
        Finding("data.json", 1, "missing_key", "'purposes' is missing")
    ]


def test_a_purpose_that_no_role_serves_never_applies():
    data = json.loads(SHIPPED)
    for role in data["roles"].values():
        role["purposes"] = ["inference"]
    lost = [one.text for one in check_data(json.dumps(data)) if one.code == "never_applies"]
    assert len(lost) == 5


def test_rego_from_before_own_versions_isnt_published_with_such_grants():
    """It would grant what they say for all versions."""
    before = [text.replace("own_versions", "was_not_there") for text in files.modules().values()]
    found = check_data(SHIPPED, modules=before)
    assert [(one.code, one.grave) for one in found] == [("narrows_nothing", True)]
    with pytest.raises(InvalidRequest, match="reads own_versions") as refused:
        check_publishable(SHIPPED, before)
    assert refused.value.code == "bad_policy"
    check_publishable(SHIPPED, files.modules().values())
    without = json.loads(SHIPPED)
    without["grants"] = [one for one in without["grants"] if "own_versions" not in one]
    check_publishable(json.dumps(without), before)


def test_a_role_that_no_grant_gives_is_unused():
    (found,) = check_data(SHIPPED.replace('"role": "pusher"', '"role": "owner"'))
    assert (found.code, found.line) == ("unused_role", line_of(SHIPPED, '"pusher": {'))


def test_a_grant_that_stands_twice_is_found():
    data = json.loads(SHIPPED)
    data["grants"].append(data["grants"][0])
    text = json.dumps(data, indent=1)
    (found,) = check_data(text)
    assert found.code == "repeated_grant"
    assert found.line > 60


@pytest.mark.parametrize(
    ("grant", "codes"),
    [
        ({"tenants": ["*"], "models": ["mini*"]}, []),
        ({"tenants": ["*"], "models": ["mini*", "maxi*"]}, ["matches_nothing"]),
        ({"tenants": ["blue"], "models": ["*"]}, []),
        ({"tenants": ["blue"], "models": ["mini*"]}, ["matches_nothing"]),
        ({"tenants": ["green"], "models": ["*"]}, ["matches_nothing"]),
        ({"tenants": ["green"], "models": ["mini*"]}, ["matches_nothing", "matches_nothing"]),
    ],
)
def test_patterns_that_match_nothing_are_found(grant, codes):
    data = json.loads(SHIPPED)
    data["grants"].append({"role": "auditor", "groups": ["local:x"], **grant})
    found = check_data(json.dumps(data), [("red", "minilm"), ("blue", "bert")])
    assert [one.code for one in found] == codes


def test_deep_json_is_a_finding_too():
    assert [one.code for one in check_data("[" * 100_000)] == ["bad_json"]


def test_a_list_is_a_finding():
    assert [one.code for one in check_data("[]")] == ["bad_value"]
