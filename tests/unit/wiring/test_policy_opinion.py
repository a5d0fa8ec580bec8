"""`opa` is asked too where it is on the PATH."""

from __future__ import annotations

import pytest

from modelvault.adapters.policy_files import PolicyFolder
from modelvault.wiring.checking import _second_opinion
from support.opa import opa

RULES = """package modelvault.site

denies contains "site:closed" if input.action.name == "load"
"""
TESTS = """package modelvault.site_test

import data.modelvault.site

test_closed if "site:closed" in site.denies with input as {"action": {"name": "load"}}
"""


@pytest.fixture
def folder(tmp_path):
    made = PolicyFolder(tmp_path / "policy")
    made.start()
    return made


def test_without_opa_there_is_no_second_opinion(folder, monkeypatch, tmp_path):
    (folder.root / "site" / "house.rego").write_text(RULES)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _second_opinion(folder) == []


def test_site_rules_must_be_tested_and_dont_disturb_the_shipped_tests(folder, monkeypatch):
    monkeypatch.setenv("PATH", str(opa().parent))
    assert _second_opinion(folder) == []
    (folder.root / "site" / "house.rego").write_text(RULES)
    found = {(one.file, one.line, one.code) for one in _second_opinion(folder)}
    assert found == {("site/house.rego", 3, "not_covered")}
    (folder.root / "site" / "house_test.rego").write_text(TESTS)
    assert _second_opinion(folder) == []
