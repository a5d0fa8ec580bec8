"""docs/openapi.json is what the program serves, and its schemas are schemas."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from modelvault.server import openapi
from modelvault.server.problems import STATUS
from modelvault.wire.calls import CALLS

KEPT = Path(__file__).parents[2] / "docs" / "openapi.json"
DOCUMENT = openapi.document()


def test_the_kept_document_is_the_programs() -> None:
    assert KEPT.read_bytes() == openapi.text(), "run `make docs-write`"


def test_every_call_is_there_with_its_answers() -> None:
    for call in CALLS.values():
        operation = DOCUMENT["paths"][call.path][call.method.lower()]
        assert operation["operationId"] == call.name
        assert {str(status) for status in STATUS.values()} <= operation["responses"].keys()
        assert ("204" in operation["responses"]) == (call.answer is None)


def test_references_lead_somewhere() -> None:
    named = json.dumps(DOCUMENT).split('"$ref": "#/components/schemas/')[1:]
    assert {each.split('"')[0] for each in named} <= DOCUMENT["components"]["schemas"].keys()


@pytest.mark.parametrize("name", sorted(DOCUMENT["components"]["schemas"]))
def test_schemas_are_schemas(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(DOCUMENT["components"]["schemas"][name])
