"""Decision tables: read, run, and good enough that no rule can be lost unseen."""

from __future__ import annotations

import json
from collections import Counter
from itertools import groupby

import jsonschema
import msgspec
import pytest

from modelvault.errors import InvalidRequest, Unavailable
from modelvault.policy import cases, shipped
from modelvault.policy.bundle import Bundle
from modelvault.policy.cases import Case
from modelvault.policy.rego import SITE
from modelvault_policies import files
from support.rego import Direct, mutants

OWN = shipped.bundle()
SHIPPED = cases.shipped()
PERSONAS = [case for case in SHIPPED if case.file == "cases/personas.json"]


def alike() -> list[list[Case]]:
    def key(case: Case) -> str:
        return json.dumps([case.data, case.site])

    groups = [list(group) for _, group in groupby(sorted(SHIPPED, key=key), key)]
    return sorted(groups, key=len, reverse=True)


GROUPS = alike()
MUTANTS = [one for path, text in OWN.modules.items() for one in mutants(path, text)]


def test_every_shipped_case_gets_its_decision():
    assert [str(failure) for failure in cases.run(SHIPPED, OWN, Direct)] == []


def test_ten_personas_ask_for_six_actions_with_three_classifications():
    cells = {
        (case.input["subject"]["id"], case.input["action"]["name"],
         case.input["resource"]["classification"])
        for case in PERSONAS
    }  # fmt: skip
    assert len(cells) == len(PERSONAS) == 10 * 6 * 3
    assert [len(set(part)) for part in zip(*cells, strict=True)] == [10, 6, 3]
    outcomes = Counter(case.expected["decision"] for case in PERSONAS)
    assert min(outcomes.values()) > 50


def test_every_code_of_the_rules_is_expected_somewhere():
    said = {code for case in SHIPPED for code in case.expected["context"]["reasons"]}
    for text in OWN.modules.values():
        for line in text.splitlines():
            if line.startswith('denies contains "'):
                assert line.split('"')[1] in said


def test_the_inputs_fit_the_schema_unless_they_are_meant_not_to():
    validator = jsonschema.Draft7Validator(files.schema("input"))
    for case in SHIPPED:
        malformed = case.expected["context"]["reasons"] == ["malformed_input"]
        assert validator.is_valid(case.input) is not malformed, case.name


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_no_rule_can_be_lost_or_turned_round_unseen(mutant):
    modules = OWN.modules | {mutant.path: mutant.text}
    mutated = msgspec.structs.replace(OWN, modules=modules)
    for group in GROUPS:
        try:
            engine = Direct(group[0].bundle(mutated))
        except Unavailable:  # it doesn't even compile
            return
        if any(cases.ask(case, engine) for case in group):
            return
    pytest.fail("all cases get the same decisions without it")


def table(**parts: object) -> str:
    return json.dumps({"cases": [], **parts})


LINE = {"decision": False, "reasons": ["no_grant"]}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "JSON"),
        ("[]", "object"),
        (table(extra=1), "extra"),
        (table(data="mine"), "data"),
        (table(cases=[{"decision": True}]), "reasons"),
        (table(cases=[{**LINE, "use": ["nobody"]}]), "nobody"),
        (table(cases=[{**LINE, "obligations": ["none"]}]), "none"),
        (table(cases=[{**LINE, "decision": "no"}]), "decision"),
        (
            table(cases=[{**LINE, "obligations": ["a"]}], obligations={"a": {"max_ttl_s": 0}}),
            "value",
        ),
        (table(cases=[{**LINE, "reasons": ["two words"]}]), "shape"),
        (table() + table(), "JSON"),
    ],
)
def test_a_table_that_isnt_one_is_refused_by_name(text, word):
    with pytest.raises(InvalidRequest) as caught:
        cases.load("cases/mine.json", text)
    assert caught.value.code == "bad_cases"
    assert caught.value.message.startswith("cases/mine.json: ")
    assert word in caught.value.message


def test_fragments_are_laid_over_each_other():
    (case,) = cases.load(
        "x.json",
        table(
            parts={"a": {"s": {"x": 1, "y": [1]}}, "b": {"s": {"y": [2]}, "t": 1}},
            obligations={
                "o": {"all:max_ttl_s": 5},
                "p": {"house": {"type": "files", "value": ["*"]}},
            },
            cases=[
                {**LINE, "use": ["a", "b"], "input": {"t": {"z": None}}, "name": "and more",
                 "obligations": ["o", "p"]}
            ],
        ),
    )  # fmt: skip
    assert case.name == "a b and more"
    assert case.input == {"s": {"x": 1, "y": [2]}, "t": {"z": None}}
    assert case.expected["context"]["obligations"] == [
        {"id": "all:max_ttl_s", "type": "max_ttl_s", "properties": {"value": 5}},
        {"id": "house", "type": "files", "properties": {"value": ["*"]}},
    ]
    assert (case.data, case.site) == (None, None)


def test_a_table_may_bring_its_data_and_site_rules():
    own = Bundle(modules={"a.rego": "A", "site/old.rego": "O"}, data={"own": 1})
    one, two, three = (
        cases.load("x.json", table(cases=[LINE], **parts))[0]
        for parts in ({}, {"data": {"its": 1}, "site": {"n.rego": "N"}}, {"data": "shipped"})
    )
    assert one.bundle(own) == own
    assert two.bundle(own) == Bundle(modules={"a.rego": "A", "site/n.rego": "N"}, data={"its": 1})
    assert three.bundle(own) == Bundle(modules={"a.rego": "A"}, data=files.data())


def test_failures_are_readable():
    wrong = [
        msgspec.structs.replace(PERSONAS[0], expected={**PERSONAS[0].expected, "decision": False}),
        msgspec.structs.replace(PERSONAS[1], site={"x.rego": f"package {SITE}\ngrants := 1 / 0"}),
    ]
    texts = [str(failure) for failure in cases.run(wrong, OWN, Direct)]
    assert len(texts) == 2
    assert all("cases/personas.json: base admin push" in text for text in texts)
    assert all("expected {" in text and "\n  got      " in text for text in texts)


def test_the_order_of_reasons_and_obligations_means_nothing():
    case = next(one for one in SHIPPED if len(one.expected["context"]["reasons"]) > 1)
    turned = json.loads(json.dumps(case.expected))
    turned["context"]["reasons"].reverse()
    turned["context"]["obligations"].reverse()
    assert cases.run([msgspec.structs.replace(case, expected=turned)], OWN, Direct) == []
