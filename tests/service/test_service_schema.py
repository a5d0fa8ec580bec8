"""schemathesis over docs/openapi.json against a real broker: whatever the document lets callers
send, and what it doesn't, no answer is a failure of the broker's own."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode

from modelvault.access import OBLIGATION_TYPES
from modelvault.identity.binding import key_hash
from modelvault.upload import DeclaredFile, PushAsk
from support.asker import Asker
from support.servers.stack import Stack

DOCUMENT = json.loads((Path(__file__).parents[2] / "docs" / "openapi.json").read_text())
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = {
    each.ok().definition.raw["operationId"]: each.ok() for each in SCHEMA.get_all_operations()
}
EXAMPLES = 12
MODES = {"as documented": GenerationMode.POSITIVE, "otherwise": GenerationMode.NEGATIVE}
ENDS = {"delete", "release", "abandon"}  # what is real must stay for the others
# Fields of one operation that mean something else elsewhere.
OWN: dict[str, dict[str, Any]] = {"lease": {"files": None}, "list": {"after": ""}}
PROBLEM = "application/problem+json"


def token_of(stack: Stack) -> str:
    return stack.token("schemathesis", "vault-admins", exp=int(time.time()) + 3600)


@pytest.fixture(scope="module")
def send(stack) -> Callable[[Any], Any]:
    """Sends a case as an admin of its own: what it does to itself harms no other test."""
    token = token_of(stack)

    def call(case: Any) -> Any:
        # Always: too many failed logins would shut this address out, other tests among them.
        case.headers = {**(case.headers or {}), "Authorization": f"Bearer {token}"}
        return case.call(
            base_url=stack.urls[0],
            verify=str(stack.ca),
            timeout=20,
        )

    return call


@pytest.fixture(scope="module")
def real(stack, tmp_path_factory) -> dict[str, Any]:
    """By the fields' names: a model with a version, a lease of it, an open upload, and other values
    that the vault takes. What is found goes deeper than what isn't there."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text("{}")
    name = f"m-{secrets.token_hex(4)}"
    with stack.connect(stack.admin()) as admin:
        admin.create(name, classification="internal")
        admin.push(folder, f"{name}:prod")
    asker = Asker(stack, name, token=token_of(stack))
    file = DeclaredFile(path="config.json", size=2)
    ask = PushAsk(
        reference=name, files=(file,), nonce=secrets.token_bytes(16), recipient=asker.recipient
    )
    upload = asker.broker.open_version(asker.caller, ask).id
    return {
        "reference": name,
        "leases": asker.lease().id,
        "uploads": upload,
        "recipient": msgspec.to_builtins(asker.recipient),
        "nonce": msgspec.to_builtins(ask.nonce),
        "key_hash": key_hash(asker.recipient.suite, asker.recipient.public_key),
        "files": [msgspec.to_builtins(file)],
        "purpose": "inference",
        "fulfils": sorted(OBLIGATION_TYPES),
        "classification": "internal",
        "owner": "idp:olga",
        "tag": "next",
        "kind": "principal",
        "target": "idp:nobody",
        "action": "load",
        "reason": "a test",
        "subject": None,
        "tenant": "default",
        "revision": stack.founded.policy_revision,
        "limit": 10,
        "after": 0,
    }


def aim(case: Any, name: str, real: dict[str, Any], spared: int) -> None:
    """Put real values in the place of invented ones, all but one of them."""
    told = {**real, **OWN.get(name, {})}
    if name == "create":
        told["reference"] = f"m-{secrets.token_hex(4)}"
    elif name == "tag":
        told["reference"] += "@1"
    for place in (case.body, case.query):
        if isinstance(place, dict):
            known = sorted(place.keys() & told.keys())
            for number, each in enumerate(known):
                if number != spared % (len(known) + 1):
                    place[each] = told[each]
    kind = case.path.split("/")[2] if case.path.startswith("/v1/") else ""
    if "id" in (case.path_parameters or {}) and kind in real:
        case.path_parameters["id"] = real[kind]


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
def test_no_failure_of_the_brokers_own(send, real, name: str, mode: str) -> None:
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
        if tried % 2 and name not in ENDS:
            aim(case, name, real, tried // 2)
        answer = send(case)
        assert str(answer.status_code) in told, (answer.status_code, answer.text[:500])
        assert answer.status_code < 500 or answer.status_code == 503, answer.text[:500]
        if answer.status_code >= 400 and name != "readyz":
            kind = next(iter(answer.headers["content-type"]))
            assert kind == PROBLEM
            assert answer.json()["title"]

    check()
    assert tried
