"""What a policy changes against another: text, data, decisions, and which of these widen."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from modelvault.policy import cases, diff, shipped
from modelvault.policy.bundle import Bundle
from modelvault.policy.diff import DataChange, DecisionChange
from modelvault.policy.questions import drawn
from support.rego import Direct


def own_groups(data: dict[str, Any]) -> None:
    """As in a vault whose groups no table of ours knows; and few, so that little is asked."""
    data["grants"] = [
        each for each in data["grants"] if each["role"] in {"owner", "inference", "pusher"}
    ]
    for name in ("evaluation", "fine-tuning", "export"):
        del data["purposes"][name]
    for grant in data["grants"]:
        if "groups" in grant:
            grant["groups"] = [group.replace("local:", "idp:") for group in grant["groups"]]


def few() -> Bundle:
    data = copy.deepcopy(shipped.bundle().data)
    own_groups(data)
    return Bundle(modules=shipped.bundle().modules, data=data)


OWN = few()
SHIPPED = cases.shipped()


FEW = SHIPPED[:20]


def compared(new: Bundle, old: Bundle = OWN) -> diff.Changes:
    return diff.compare(old, new, FEW, Direct)


def with_data(change: Any) -> Bundle:
    data = copy.deepcopy(OWN.data)
    change(data)
    return Bundle(modules=OWN.modules, data=data)


def test_the_same_changes_nothing() -> None:
    changes = compared(Bundle(modules=dict(OWN.modules), data=copy.deepcopy(OWN.data)))
    assert (changes.modules, changes.data, changes.decisions) == ((), (), ())


def test_modules_are_compared_line_by_line() -> None:
    first, second, *_ = sorted(OWN.modules)
    modules = dict(OWN.modules)
    modules[first] += "# the end\n"
    del modules[second]
    modules["site/new.rego"] = "package modelvault.site\n"
    changes = compared(Bundle(modules=modules, data=OWN.data), OWN).modules
    found = {change.path: change for change in changes}
    assert {path: change.kind for path, change in found.items()} == {
        first: "changed", second: "removed", "site/new.rego": "added",
    }  # fmt: skip
    assert "+# the end" in found[first].lines
    assert found["site/new.rego"].lines[-1] == "+package modelvault.site"
    assert all(line[:1] in "-@" for line in found[second].lines if not line.startswith("+++"))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ({}, {"a": 1}, [("/a", None, "1")]),
        ({"a": None}, {}, [("/a", "null", None)]),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [2, 1]}}, [("/a/b", "[1,2]", "[2,1]")]),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3, "b": 1}}, [("/a/c", "2", "3")]),
        ({"a": {"b": 1}}, {"a": 1}, [("/a", '{"b":1}', "1")]),
        ({"a": True}, {"a": 1}, [("/a", "true", "1")]),
        ({"a": [{"x": 1, "y": 2}]}, {"a": [{"y": 2, "x": 1}]}, []),
        ({"a/b": {"c": 1}}, {"a/b": {"c": 2}}, [("/a~1b/c", "1", "2")]),
        ({"a~": 1}, {"a~": 2}, [("/a~0", "1", "2")]),
    ],
)
def test_data_is_compared_place_by_place(old: Any, new: Any, told: list[Any]) -> None:
    changes = diff.compare(
        Bundle(modules={}, data=old), Bundle(modules={}, data=new), (), Direct
    ).data
    assert [(one.place, one.before, one.after) for one in changes] == told
    assert all(isinstance(one, DataChange) for one in changes)


def test_what_is_allowed_now_widens() -> None:
    def more(data: dict[str, Any]) -> None:
        data["roles"]["pusher"]["actions"] += ["load"]
        data["roles"]["pusher"]["purposes"] = ["*"]

    changes = compared(with_data(more))
    wider = [change for change in changes.decisions if change.widens]
    assert wider
    assert {change.name.split()[1] for change in wider} == {"idp:pushers"}
    assert all(change.before.startswith("deny") for change in wider)
    assert all(change.after.startswith("allow") for change in wider)


def test_and_what_is_refused_now_does_not() -> None:
    changes = compared(with_data(lambda data: data["roles"]["inference"].update(actions=[])))
    assert changes.decisions
    assert not any(change.widens for change in changes.decisions)
    back = compared(OWN, with_data(lambda data: data["roles"]["inference"].update(actions=[])))
    assert {each.name for each in back.decisions if each.widens} == {
        each.name for each in changes.decisions if each.before.startswith("allow")
    }


def limited(**limits: object) -> Bundle:
    """One group, one classification, one purpose, and these limits."""

    def change(data: dict[str, Any]) -> None:
        data["grants"] = [grant for grant in data["grants"] if grant["role"] == "inference"]
        data["classifications"] = {"internal": {"limits": {}}}
        data["purposes"] = {"inference": data["purposes"]["inference"]}
        data["limits"] = limits

    return with_data(change)


@pytest.mark.parametrize(
    ("strict", "loose"),
    [
        ({"max_ttl_s": 60}, {"max_ttl_s": 61}),
        ({"max_ttl_s": 60}, {}),
        ({"max_total_s": 60}, {"max_total_s": 600}),
        ({"max_concurrent_leases": 0}, {"max_concurrent_leases": 1}),
        ({"max_concurrent_leases": 0}, {}),
        ({"max_bytes_per_day": 1}, {}),
        ({}, {"grace_s": 60}),
        ({"grace_s": 60}, {"grace_s": 61}),
        ({"memory_only": True}, {}),
        ({"memory_only": True}, {"memory_only": False}),
        ({"isolated_memory": True}, {}),
        ({"terminate_on_revoke": 0}, {"terminate_on_revoke": 1}),
        ({"terminate_on_revoke": 9}, {}),
        ({"allow_pickle": False}, {"allow_pickle": True}),
        ({"files": ["a"]}, {"files": ["a", "b"]}),
        ({"files": ["a"]}, {"files": ["b"]}),
        ({"files": ["a"]}, {}),
    ],
    ids=json.dumps,
)
def test_an_obligation_that_is_looser_widens(strict: Any, loose: Any) -> None:
    looser = diff.compare(limited(**strict), limited(**loose), (), Direct).decisions
    assert all(one.widens == (one.kind in {"allowed", "looser"}) for one in looser)
    granted = [one for one in looser if one.after.startswith("allow")]
    assert granted
    assert all(one.widens for one in granted)
    assert all(one.before != one.after for one in looser)
    stricter = diff.compare(limited(**loose), limited(**strict), (), Direct).decisions
    both = [one for one in stricter if one.before.startswith("allow")]
    if strict.get("files") != ["a"] or loose.get("files") != ["b"]:  # neither holds the other
        assert not any(one.widens for one in both)
        assert {one.kind for one in both} <= {"stricter", "refused"}


def test_a_policy_without_an_answer_is_told_so() -> None:
    broken = Bundle(
        modules={"modelvault/authz/authz.rego": "package modelvault.authz\n"}, data=OWN.data
    )
    changes = compared(broken)
    assert len(changes.decisions) == len(FEW) + len(drawn(OWN, OWN))
    assert {one.after for one in changes.decisions} == {diff.NO_ANSWER}
    assert not any(one.widens for one in changes.decisions)
    assert {one.kind for one in changes.decisions} == {"no_answer"}
    back = compared(OWN, broken).decisions
    assert {one.widens for one in back if one.after.startswith("allow")} == {True}
    assert {one.widens for one in back if one.after.startswith("deny")} == {False}
    assert all(isinstance(one, DecisionChange) for one in back)


@pytest.mark.parametrize(
    ("change", "named", "widens"),
    [
        (lambda data: data["grants"].append(
            {"role": "owner", "groups": ["idp:new"], "tenants": ["*"], "models": ["*"]}),
         "group idp:new load any/any restricted for inference with a bound token", True),
        (lambda data: data["grants"].append(
            {"role": "admin", "subjects": ["idp:ci-*"], "tenants": ["red"], "models": ["m-*"]}),
         "idp:ci-x delete red/m-x internal", True),
        (lambda data: data["grants"].pop(1), "group idp:inference load any/any", False),
        (lambda data: data["classifications"]["restricted"].pop("key_bound_token"),
         "group idp:inference load any/any restricted for inference", True),
        (lambda data: data["purposes"]["debug"].pop("ticket_for"),
         "the owner load any/any restricted for debug", False),
        (lambda data: data["purposes"].update(
            training={"actions": ["load"], "classifications": ["*"]}),
         "the owner load any/any internal for training", True),
        (lambda data: data["grants"][1].update(groups=["idp:inference", "idp:also"]),
         "group idp:also load any/any internal for inference", True),
        (lambda data: data["limits"].update(max_concurrent_leases=1001),
         "group idp:inference load any/any public for inference", True),
    ],
)  # fmt: skip
def test_a_vaults_own_groups_are_asked_for(change: Any, named: str, widens: bool) -> None:
    found = diff.compare(OWN, with_data(change), (), Direct).decisions
    told = [one for one in found if one.name.startswith(named)]
    assert told, [one.name for one in found][:20]
    assert any(one.widens for one in told) == widens


def test_a_grant_for_own_versions_widens_for_these_alone() -> None:
    every: dict[str, Any] = {
        "role": "owner", "groups": ["idp:t"], "tenants": ["*"], "models": ["run-*"]
    }  # fmt: skip
    own = every | {"own_versions": True}
    adds, lifts = (
        diff.compare(old, new, (), Direct).decisions
        for old, new in (
            (OWN, with_data(lambda data: data["grants"].append(own))),
            (
                with_data(lambda data: data["grants"].append(own)),
                with_data(lambda data: data["grants"].append(every)),
            ),
        )
    )
    name = "group idp:t delete any/run-x internal"
    assert {one.name: one.widens for one in adds if one.name.startswith(name)} == {
        f"{name} of its own making": True
    }
    assert {one.name: one.widens for one in lifts if one.name.startswith(name)} == {name: True}


def test_holders_of_the_same_grants_are_asked_for_once() -> None:
    def many(data: dict[str, Any]) -> None:
        data["grants"][1]["groups"] = [f"idp:g{number}" for number in range(500)]

    assert len(drawn(with_data(many), with_data(many))) == len(drawn(OWN, OWN))


@pytest.mark.parametrize(
    "data",
    [
        {}, {"grants": 7, "purposes": [], "classifications": None}, {"grants": ["x", {}]},
        {"grants": [{"groups": "x", "subjects": [1], "tenants": None, "models": {}}]},
    ],
)  # fmt: skip
def test_data_of_another_shape_asks_for_nothing(data: dict[str, Any]) -> None:
    assert drawn(Bundle(modules={}, data=data), Bundle(modules={}, data=data)) == ()
