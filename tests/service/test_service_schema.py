"""schemathesis over docs/openapi.json against a real broker: whatever the document lets callers
send, and what it doesn't, no answer is a failure of the broker's own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode

DOCUMENT = json.loads((Path(__file__).parents[2] / "docs" / "openapi.json").read_text())
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = {
    each.ok().definition.raw["operationId"]: each.ok() for each in SCHEMA.get_all_operations()
}
EXAMPLES = 12
MODES = {"as documented": GenerationMode.POSITIVE, "otherwise": GenerationMode.NEGATIVE}
PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def send(stack) -> Callable[[Any], Any]:
    """Sends a case as an admin of its own: what it does to itself harms no other test."""
    token = stack.token("schemathesis", "vault-admins", exp=int(time.time()) + 3600)

    def call(case: Any) -> Any:
        return case.call(
            base_url=stack.urls[0],
            headers={"Authorization": f"Bearer {token}"},
            verify=str(stack.ca),
            timeout=20,
        )

    return call


def test_every_operation_is_tried() -> None:
    documented = {
        operation["operationId"]
        for path in DOCUMENT["paths"].values()
        for operation in path.values()
    }
    assert set(OPERATIONS) == documented


def cases() -> list[tuple[str, str]]:
    """Each operation in both ways; what takes nothing can't be sent anything wrong."""
    takes = {
        name
        for name, each in OPERATIONS.items()
        if each.definition.raw.keys() & {"parameters", "requestBody"}
    }
    return [
        (name, mode)
        for name in OPERATIONS
        for mode in MODES
        if name in takes or mode != "otherwise"
    ]


@pytest.mark.parametrize(("name", "mode"), cases())
def test_no_failure_of_the_brokers_own(send, name: str, mode: str) -> None:
    operation = OPERATIONS[name]
    told = operation.definition.raw["responses"]
    tried = 0

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=MODES[mode]))
    def check(case: Any) -> None:
        nonlocal tried
        tried += 1
        answer = send(case)
        assert str(answer.status_code) in told, (answer.status_code, answer.text[:500])
        assert answer.status_code < 500 or answer.status_code == 503, answer.text[:500]
        if answer.status_code >= 400 and name != "readyz":
            kind = next(iter(answer.headers["content-type"]))
            assert kind == PROBLEM
            assert answer.json()["title"]

    check()
    assert tried
