"""regorus in this process: quick, and able to hang it, so only for policies that are known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import regorus

from modelvault.access import Evaluation
from modelvault.adapters.policy_regorus import RULE
from modelvault.errors import Unavailable
from modelvault.policy.bundle import Bundle


class Direct:
    """A PolicyEngine without the child process."""

    def __init__(self, bundle: Bundle) -> None:
        self._engine = regorus.Engine()
        try:
            for path, text in bundle.modules.items():
                self._engine.add_policy(path, text)
            self._engine.add_data_json(json.dumps(bundle.document))
        except RuntimeError as failure:
            raise Unavailable("policy_unavailable", str(failure)[:300]) from None

    def __enter__(self) -> Direct:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def evaluate(self, document: dict[str, Any]) -> Evaluation:
        try:
            self._engine.set_input_json(json.dumps(document))
            answer = json.loads(self._engine.eval_rule_as_json(RULE))
        except RuntimeError as failure:
            raise Unavailable("policy_unavailable", str(failure)[:300]) from None
        return Evaluation(answer, "", "")


@dataclass(frozen=True)
class Mutant:
    """One change to one module."""

    path: str
    line: int
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


def mutants(path: str, text: str) -> Iterator[Mutant]:
    """Each rule left out; each condition left out; each condition turned round.

    Conditions of a `some` or an assignment are left out only: there is nothing to turn round.
    """
    engine = regorus.Engine()
    engine.add_policy(path, text)
    raw = text.encode()
    for rule in json.loads(engine.get_ast_as_json())[0]["ast"]["rules"]:
        (node,) = rule.values()
        yield _cut(path, raw, node["span"], b"", "rule left out")
        for statement in _statements(node):
            (kind,) = statement["literal"]
            span = _whole(raw, statement["span"])
            code = raw[span["start"] : span["end"]]
            if kind == "NotExpr":
                turned = code.removeprefix(b"not ")
            elif kind == "Expr" and b":=" not in code:
                turned = b"not " + code
            elif kind == "Every":
                turned = b"1 == 2"
            else:
                turned = b""
            if turned:
                yield _cut(path, raw, span, turned, f"turned round: {code.decode()}")
            yield _cut(path, raw, span, b"1 == 1", f"left out: {code.decode()}")


def _statements(node: object) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if "literal" in node:
            yield node
        for value in node.values():
            yield from _statements(value)
    elif isinstance(node, list):
        for value in node:
            yield from _statements(value)


def _whole(raw: bytes, span: dict[str, int]) -> dict[str, int]:
    """regorus leaves the quotes of a text at either end out of the span."""
    start, end = span["start"], span["end"]
    start -= raw[start - 1 : start] == b'"'
    end += raw[end : end + 1] == b'"'
    return {"line": span["line"], "start": start, "end": end}


def _cut(path: str, raw: bytes, span: dict[str, int], instead: bytes, what: str) -> Mutant:
    text = raw[: span["start"]] + instead + raw[span["end"] :]
    return Mutant(path, span["line"], what, text.decode())
