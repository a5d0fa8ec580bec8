"""The policies page: its rules load, its table holds, its lists are complete."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from modelvault.access import OBLIGATION_TYPES, Action
from modelvault.adapters.policy_regorus import check
from modelvault.policy import cases, shipped
from modelvault.policy.bundle import combine
from modelvault_policies import files
from support.rego import Direct

PAGE = (Path(__file__).parents[2] / "docs" / "policies.md").read_text("utf-8")
RULES = re.findall(r"```rego\n(.*?)```", PAGE, re.DOTALL)
TABLE = next(
    block for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL) if "cases" in block
)
SAMPLE = cases.shipped()[0].input


def named(text: str, heading: str) -> set[str]:
    section = text[text.index(heading) :]
    rows = re.findall(r"^\| (`.*?) \|", section.split("\n## ")[0].split("\n### ")[0], re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([\w:-]+)", row)}


@pytest.mark.parametrize("rules", RULES, ids=["contractors", "weekend"])
def test_the_rules_on_the_page_can_be_used(rules):
    bundle = combine(files.modules(), files.data(), {"house.rego": rules})
    assert check(bundle, SAMPLE) == []


@pytest.mark.parametrize(
    ("now", "reasons"),
    [(1767225600000, ["grant:inference"]), (1767398400000, ["site:weekend"])],
)  # a Thursday, a Saturday
def test_the_weekend_rule_denies_on_weekends(now, reasons):
    bundle = combine(files.modules(), files.data(), {"house.rego": RULES[1]})
    case = next(one for one in cases.shipped() if one.name == "base serving load restricted")
    document = json.loads(json.dumps(case.input))
    document["context"]["now"] = now
    assert Direct(bundle).evaluate(document).document["context"]["reasons"] == reasons


def test_the_table_on_the_page_holds_under_the_shipped_data():
    table = cases.load("cases/page.json", TABLE)
    assert len(table) == 3
    assert [str(one) for one in cases.run(table, shipped.bundle(), Direct)] == []


def test_every_action_limit_and_code_is_told_of():
    assert named(PAGE, "### The actions") == set(get_args(Action))
    assert named(PAGE, "**Limits** may stand") >= OBLIGATION_TYPES
    said = set(re.findall(r'^denies contains "(\w+)"', "\n".join(files.modules().values()), re.M))
    assert named(PAGE, "### Reasons of a no") >= said | {"malformed_input"}
    assert named(PAGE, "What is shipped:") == set(files.data()["roles"])
