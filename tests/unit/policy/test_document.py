"""Requests to inputs, answers to decisions."""

from __future__ import annotations

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelvault.access import AccessRequest, Evaluation, Obligations, Principal, Resource
from modelvault.errors import Unavailable
from modelvault.policy.document import insist, to_decision, to_input
from modelvault_policies import files

WHO = Principal(
    id="local:ann",
    issuer="local",
    groups=("local:admins",),
    claims={"sub": "ann"},
    bound_by="key",
    key_hash="canary-key-hash",
    issued_at=1,
    expires_at=2,
)
ASKS = AccessRequest(
    principal=WHO,
    action="load",
    resource=Resource(
        tenant="default",
        id="minilm",
        version=7,
        manifest="sha256:00",
        created_by="local:bob",
        owner="local:olga",
        classification="internal",
        labels={"a": "b"},
        pickles=("a.bin",),
        formats=("pickle",),
        files=("a.bin",),
        bytes=9,
    ),
    now=1767225600000,
    purpose="inference",
    purpose_bound_by="token",
    ticket="T-1",
    source_ip="192.0.2.1",
    client="test",
    fulfils=("files",),
)


def answer(*obligations: object, decision: object = True, reasons: object = ("grant:a",)) -> dict:
    return {
        "decision": decision,
        "context": {
            "reasons": list(reasons) if isinstance(reasons, tuple) else reasons,
            "obligations": list(obligations),
        },
    }


def keep(kind: str, value: object, **more: object) -> dict:
    return {"id": f"x:{kind}", "type": kind, "properties": {"value": value, **more}}


def decide(document: object) -> object:
    return to_decision(Evaluation(document, "sha256:r", "d1"))


def test_the_input_says_all_of_the_request_and_fits_the_schema():
    document = to_input(ASKS)
    jsonschema.validate(document, files.schema("input"), cls=jsonschema.Draft7Validator)
    assert document["subject"] == {
        "type": "principal",
        "id": "local:ann",
        "issuer": "local",
        "groups": ["local:admins"],
        "claims": {"sub": "ann"},
        "bound_by": "key",
    }
    assert document["action"] == {"name": "load"}
    assert document["resource"]["hints"] == {"formats": ["pickle"], "pickles": ["a.bin"]}
    assert document["resource"]["labels"] == {"a": "b"}
    assert document["resource"]["created_by"] == "local:bob"
    assert document["context"] == {
        "purpose": "inference",
        "purpose_bound_by": "token",
        "ticket": "T-1",
        "destination": None,
        "now": 1767225600000,
        "source_ip": "192.0.2.1",
        "client": "test",
        "supported_obligations": ["files"],
    }
    assert "canary" not in str(document)


def test_a_request_about_no_model_fits_the_schema_too():
    bare = AccessRequest(
        principal=WHO, action="list", resource=Resource(tenant="default", id="*"), now=0
    )
    jsonschema.validate(to_input(bare), files.schema("input"), cls=jsonschema.Draft7Validator)


def test_an_allow():
    decision = decide(answer(keep("max_ttl_s", 60), keep("files", ["*.json"])))
    assert decision.allowed
    assert decision.reasons == ("grant:a",)
    assert decision.obligations == Obligations(max_ttl_s=60, files=("*.json",))
    assert (decision.revision, decision.decision_id) == ("sha256:r", "d1")


@pytest.mark.parametrize(
    ("first", "second", "kind", "strictest"),
    [
        (60, 30, "max_ttl_s", 30),
        (5, 6, "max_total_s", 5),
        (0, 9, "grace_s", 0),
        (7, 7, "max_bytes_per_day", 7),
        (0, 3, "max_concurrent_leases", 0),
        (True, False, "memory_only", True),
        (False, False, "memory_only", False),
        (True, False, "isolated_memory", True),
        (0, 30, "terminate_on_revoke", 0),
        (True, False, "allow_pickle", False),
        (True, True, "allow_pickle", True),
        (["*"], ["*.json", "*.txt"], "files", ("*.json", "*.txt")),
        (["a*"], ["*b"], "files", ()),
        (["a.json", "b"], ["*.json"], "files", ("a.json",)),
    ],
)
def test_the_strictest_wins_in_either_order(first, second, kind, strictest):
    for values in ((first, second), (second, first)):
        decision = decide(answer(*(keep(kind, value) for value in values)))
        assert getattr(decision.obligations, kind) == strictest


@pytest.mark.parametrize("allowed", [True, False])
def test_an_unknown_obligation_is_a_deny(allowed):
    decision = decide(answer(keep("watermark", True), decision=allowed))
    assert not decision.allowed
    assert decision.reasons == (
        ("unknown_obligation",) if allowed else ("grant:a", "unknown_obligation")
    )


@pytest.mark.parametrize(
    "document",
    [
        None,
        "allow",
        True,
        [],
        {},
        {"decision": True},
        {"decision": True, "context": {}},
        {"decision": True, "context": {"reasons": []}},
        {"decision": True, "context": {"obligations": []}},
        {"decision": 1, "context": {"reasons": [], "obligations": []}},
        {"decision": "true", "context": {"reasons": [], "obligations": []}},
        {"decision": None, "context": {"reasons": [], "obligations": []}},
        {"decision": True, "context": {"reasons": [], "obligations": []}, "more": 1},
        {"decision": True, "context": {"reasons": [], "obligations": [], "more": 1}},
        answer(reasons="grant:a"),
        answer(reasons=[1]),
        answer(reasons=["two words"]),
        answer(reasons=["line\nfeed"]),
        answer(reasons=["a" * 161]),
        answer(reasons=["a"] * 257),
        answer("max_ttl_s"),
        answer({"id": "x", "type": "max_ttl_s"}),
        answer({"id": "x", "type": "", "properties": {"value": 1}}),
        answer({"type": "max_ttl_s", "properties": {"value": 1}}),
        answer({**keep("max_ttl_s", 1), "more": 1}),
        answer(keep("max_ttl_s", 1, unit="s")),
        answer(keep("max_ttl_s", 0)),
        answer(keep("max_ttl_s", -1)),
        answer(keep("max_ttl_s", True)),
        answer(keep("max_ttl_s", "60")),
        answer(keep("max_ttl_s", 60.0)),
        answer(keep("max_ttl_s", None)),
        answer(keep("max_total_s", 0)),
        answer(keep("grace_s", -1)),
        answer(keep("max_bytes_per_day", 2**53)),
        answer(keep("memory_only", 1)),
        answer(keep("allow_pickle", "yes")),
        answer(keep("files", "*.json")),
        answer(keep("files", [])),
        answer(keep("files", [1])),
        answer({"id": "x", "type": "files", "properties": {}}),
    ],
)
def test_what_isnt_a_decision_is_an_outage_and_no_deny(document):
    with pytest.raises(Unavailable) as caught:
        decide(document)
    assert caught.value.code == "policy_unavailable"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(JSON, JSON, JSON)
@settings(max_examples=100)
def test_no_document_at_all_escapes_as_something_else(one, two, three):
    for document in (
        one,
        answer(keep("files", one), reasons=two),
        answer(one, two, decision=three),
    ):
        try:
            decision = decide(document)
        except Unavailable:
            continue
        assert document["decision"] is True or not decision.allowed


@pytest.mark.parametrize(
    ("obligations", "fulfils", "missing"),
    [
        ({"memory_only": True}, (), ["memory_only"]),
        ({"memory_only": True}, ("memory_only",), []),
        ({"grace_s": 60}, ("memory_only",), ["grace_s"]),
        ({"isolated_memory": True}, ("memory_only",), ["isolated_memory"]),
        ({"terminate_on_revoke": 0}, ("memory_only",), ["terminate_on_revoke"]),
        ({"terminate_on_revoke": 5}, ("terminate_on_revoke",), []),
        ({"grace_s": 0, "memory_only": False}, (), []),
        ({"grace_s": 5, "memory_only": True}, (), ["grace_s", "memory_only"]),
        ({"max_ttl_s": 5, "files": ("a",), "max_concurrent_leases": 1}, (), []),
    ],
)
def test_an_obligation_that_the_asker_cant_keep_is_a_deny(obligations, fulfils, missing):
    decision = msgspec.structs.replace(decide(answer()), obligations=Obligations(**obligations))
    insisted = insist(decision, fulfils)
    assert insisted.allowed is not bool(missing)
    if missing:
        assert insisted.reasons == tuple(f"unfulfilled_obligation:{name}" for name in missing)


def test_insisting_leaves_a_deny_alone():
    decision = decide(answer(decision=False, reasons=("no_grant",)))
    assert insist(decision, ()) == decision
