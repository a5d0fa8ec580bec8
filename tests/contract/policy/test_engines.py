"""What every policy engine must keep, and that they agree."""

from __future__ import annotations

import json
from contextlib import ExitStack
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelvault.access import Evaluation
from modelvault.adapters.opa_tool import OpaServer
from modelvault.adapters.policy_regorus import RegorusEngine
from modelvault.errors import Unavailable
from modelvault.policy import cases, shipped
from modelvault.policy.bundle import Bundle
from modelvault.policy.cases import Case
from support.opa import opa
from support.servers.opa import Served

SHIPPED = cases.shipped()


def regorus_engine(bundle: Bundle) -> RegorusEngine:
    return RegorusEngine.of(bundle, deadline_s=10.0)


def opa_engine(bundle: Bundle) -> OpaServer:
    return OpaServer(opa(), bundle)


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """An OPA server with a signed bundle, as a service runs it."""
    opa_server = Served(tmp_path_factory.mktemp("opa"))
    yield opa_server
    opa_server.close()


@pytest.fixture(params=["regorus", "opa-run", "opa-server"])
def engine_for(request):
    if request.param == "opa-server":
        return request.getfixturevalue("served").serve
    return regorus_engine if request.param == "regorus" else opa_engine


def of(rules: str) -> Bundle:
    return Bundle(modules={"a.rego": f"package modelvault.authz\n\n{rules}\n"}, data={"x": [1]})


class TestPolicyEngine:
    def test_every_shipped_case_gets_its_decision(self, engine_for):
        failures = cases.run(SHIPPED, shipped.bundle(), engine_for)
        assert [str(failure) for failure in failures] == []

    def test_the_document_is_handed_on_unexamined(self, engine_for):
        rules = 'decision := {"any": input.a, "data": data.modelvault.x}'
        bundle = of(rules)
        with engine_for(bundle) as engine:
            answer = engine.evaluate({"a": {"é": None}})
            assert isinstance(answer, Evaluation)
            assert answer.document == {"any": {"é": None}, "data": [1]}
            assert answer.revision == bundle.revision
            assert answer.decision_id != engine.evaluate({"a": 1}).decision_id

    @pytest.mark.parametrize(
        "rules",
        [
            'decision := {"a": 1} if input.other',
            'decision := "allow"',
            "decision := true",
            "decision := [true]",
            # Not of startswith and the like: OPA 1.22 takes their wrong types for undefined.
            'decision := {"a": to_number(input.b)}',
            'decision := {"a": 1} if not to_number(input.b)',
            'default decision := {"a": 0}\n\ndecision := {"a": 1} if to_number(input.b) == 1',
            'decision := {"a": 1} if not net.cidr_contains("192.0.2.0/24", input.b)',
            'decision := {"a": 1}\n\ndecision := {"a": 2}',
            "decide := {}",
        ],
    )
    def test_no_value_no_object_and_every_error_is_an_outage(self, engine_for, rules):
        with engine_for(of(rules)) as engine, pytest.raises(Unavailable) as caught:
            engine.evaluate({"a": 1, "b": "x"})
        assert caught.value.code in {"policy_unavailable", "opa_failed"}


ODD = st.sampled_from([None, 7, True, [], {}, ["local:admins"], {"a": "local:admins"}, "", "*"])
GROUPS = st.lists(
    st.sampled_from(
        [
            "local:admins",
            "local:inference",
            "local:researchers",
            "local:pushers",
            "local:trainers",
            "corp:old",
        ]
    ),
    max_size=2,
)
VALUES = {
    ("subject", "id"): st.sampled_from(["local:olga", "local:a\nb", "ci:repo:x:main", "é"]),
    ("subject", "groups"): GROUPS,
    ("subject", "bound_by"): st.sampled_from(["bearer", "key"]),
    ("action", "name"): st.sampled_from(
        ["load", "renew", "export", "push", "show", "list", "tag", "delete", "gc", "shred"]
    ),
    ("resource", "tenant"): st.sampled_from(["default", "red", "blue"]),
    ("resource", "id"): st.sampled_from(["minilm", "team-a-1", "legacy-", "x-shared", "*"]),
    ("resource", "owner"): st.sampled_from([None, "local:olga", "local:admins"]),
    ("resource", "created_by"): st.sampled_from([None, "local:olga", "ci:repo:x:main"]),
    ("resource", "classification"): st.sampled_from(
        [None, "public", "internal", "restricted", "open", "closed", "loose", "odd"]
    ),
    ("resource", "hints", "pickles"): st.lists(st.sampled_from(["a", "b"]), max_size=2),
    ("resource", "files"): st.lists(st.sampled_from(["a", "c"]), max_size=2),
    ("context", "purpose"): st.sampled_from(
        [None, "inference", "evaluation", "export", "debug", "run", "try", "resale"]
    ),
    ("context", "purpose_bound_by"): st.sampled_from(["caller", "token"]),
    ("context", "ticket"): st.sampled_from([None, "T-1"]),
}


@st.composite
def inputs(draw):
    """A shipped case's input with some of its values changed, now and then to nonsense."""
    document = json.loads(json.dumps(draw(st.sampled_from(SHIPPED)).input))
    for path in draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=6, unique=True)):
        value = draw(VALUES[path] if draw(st.integers(0, 9)) else ODD)
        node = document
        for part in path[:-1]:
            node = node[part] if isinstance(node, dict) and part in node else {}
        if isinstance(node, dict):
            node[path[-1]] = value
    return document


def by_setting() -> list[Bundle]:
    def key(case: Case) -> str:
        return json.dumps([case.data, case.site])

    groups = groupby(sorted(SHIPPED, key=key), key)
    return [next(group).bundle(shipped.bundle()) for _, group in groups]


@pytest.fixture(scope="module")
def pairs():
    """Both engines for each data.json and site rules that the shipped cases have."""
    with ExitStack() as stack:
        yield [
            (stack.enter_context(regorus_engine(one)), stack.enter_context(opa_engine(one)))
            for one in by_setting()
        ]


def answered(engine, document):
    """The document with its sets in order, or that there was none."""
    try:
        answer = engine.evaluate(document).document
    except Unavailable:
        return None
    for part in ("reasons", "obligations"):
        answer["context"][part].sort(key=json.dumps)
    return answer


@given(document=inputs())
@settings(max_examples=300, deadline=None)
def test_both_engines_say_the_same_of_generated_inputs(pairs, document):
    for one, other in pairs:
        assert answered(one, document) == answered(other, document)
