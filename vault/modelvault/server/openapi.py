"""The OpenAPI document, made from the table of calls and the values' own types."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import msgspec

from modelvault.server.problems import STATUS
from modelvault.wire import problem
from modelvault.wire.calls import CALLS, Call
from modelvault.wire.problem import Problem

VERSION = "1"
_REF = "#/components/schemas/{name}"


@cache
def text() -> bytes:
    """The document as JSON."""
    return (json.dumps(document(), indent=1, sort_keys=True) + "\n").encode()


def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    types = [kind for call in CALLS.values() for kind in (call.body, call.answer) if kind]
    schemas, components = msgspec.json.schema_components([*types, Problem], ref_template=_REF)
    named = {repr(kind): schema for kind, schema in zip([*types, Problem], schemas, strict=True)}
    paths: dict[str, Any] = {}
    for call in CALLS.values():
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call, named, components)
    for path, summary in _OPERATORS.items():
        paths[path] = {"get": _for_operators(path, summary)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "modelvault broker",
            "version": VERSION,
            "description": "Leases, uploads and stewardship of an encrypted model vault. Weights "
            "never pass through it: they are read and put by signed links.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
            },
        },
    }


def _operation(call: Call, named: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": call.name,
        "summary": call.summary,
        "tags": [call.side],
        "security": [{"token": []}],
        "responses": {
            **_success(call, named),
            **{str(status): _problem(family) for family, status in STATUS.items()},
            "408": _problem("too slow"),
            "413": _problem("too large"),
            "415": _problem("bad media type"),
            "429": _problem("rate limited"),
            "431": _problem("head too large"),
        },
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", call.path)
    ]
    if call.body is not None and call.method == "GET":
        parameters += _query(components[call.body.__name__])
    elif call.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": named[repr(call.body)]}},
        }
    return operation | ({"parameters": parameters} if parameters else {})


def _query(schema: dict[str, Any]) -> list[dict[str, Any]]:
    required = set(schema.get("required", ()))
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _present(shape)}
        for name, shape in schema["properties"].items()
    ]


def _present(shape: dict[str, Any]) -> dict[str, Any]:
    """A parameter's schema: what isn't there can't be null."""
    options = [each for each in shape.get("anyOf", ()) if each.get("type") != "null"]
    if len(options) != 1:
        return shape
    return {**options[0], **({"default": shape["default"]} if shape.get("default") else {})}


def _success(call: Call, named: dict[str, Any]) -> dict[str, Any]:
    if call.answer is None:
        return {"204": {"description": "Done."}}
    content = {"application/json": {"schema": named[repr(call.answer)]}}
    return {"200": {"description": "Done.", "content": content}}


def _problem(what: str) -> dict[str, Any]:
    schema = {"$ref": _REF.format(name=Problem.__name__)}
    return {
        "description": what.replace("_", " ").capitalize() + ".",
        "content": {problem.MEDIA_TYPE: {"schema": schema}},
    }


_OPERATORS = {
    "/healthz": "Whether the process lives.",
    "/readyz": "Whether it and all its parts can serve.",
    "/openapi.json": "This document.",
    "/v1/policy/bundle": "The signed policy in force, for OPA servers.",
}


def _for_operators(path: str, summary: str) -> dict[str, Any]:
    name = re.sub(r"\W+", "_", path).strip("_")
    found: dict[str, Any] = {"200": {"description": "As asked."}}
    if path == "/readyz":
        found["503"] = {"description": "A part doesn't answer."}
    if path.endswith("bundle"):
        found |= {
            "304": {"description": "What the asker has is in force."},
            "401": _problem("authentication"),
            "404": _problem("not found"),
            "503": _problem("unavailable"),
        }
    return {"operationId": name, "summary": summary, "tags": ["operators"], "responses": found}
