"""Decision tables: inputs with the decision each must get, run through any engine.

A file is a JSON object:

    about        what the table shows
    data         "shipped", or a data.json's content; without it the bundle's own data
    site         {"name.rego": text}: site rules in place of the bundle's; where `data` stands
                 and `site` doesn't, there are none
    parts        {name: input fragment}
    obligations  {name: {id: value}}
    cases        [{"use": [parts], "input": fragment, "decision": bool, "reasons": [codes],
                   "obligations": [names]}]

A case's input is its parts laid over each other in order, then its own fragment: objects are
merged, anything else is replaced. An obligation's type is what stands behind the last colon of its
id, unless the value is an object of `type` and `value`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from itertools import groupby
from typing import Any, Literal

import msgspec

from modelvault import canonical
from modelvault.access import Evaluation
from modelvault.errors import InvalidRequest, ModelVaultError, Unavailable
from modelvault.policy import bundle as bundles
from modelvault.policy.bundle import Bundle
from modelvault.policy.document import to_decision
from modelvault.ports.policy import PolicyEngine
from modelvault_policies import files

EngineFor = Callable[[Bundle], AbstractContextManager[PolicyEngine]]


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One input and the document it must get; `data` and `site` replace the bundle's if given."""

    file: str
    name: str
    input: dict[str, Any]
    expected: dict[str, Any]
    data: dict[str, Any] | None
    site: dict[str, str] | None

    def bundle(self, own: Bundle) -> Bundle:
        """`own` with this case's data and site rules."""
        modules, data = own.modules, own.data
        if self.site is not None:
            kept = {path: text for path, text in modules.items() if not path.startswith("site/")}
            modules = bundles.combine(kept, {}, self.site).modules
        return Bundle(modules=modules, data=data if self.data is None else self.data)


class Failure(msgspec.Struct, frozen=True):
    """A case that got another answer; both as JSON text, or the error's message as `got`."""

    file: str
    name: str
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.file}: {self.name}\n  expected {self.expected}\n  got      {self.got}"


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    decision: bool
    reasons: tuple[str, ...]
    use: tuple[str, ...] = ()
    name: str = ""
    input: dict[str, Any] = {}
    obligations: tuple[str, ...] = ()


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cases: tuple[_Line, ...]
    about: str = ""
    data: Literal["shipped"] | dict[str, Any] | None = None
    site: dict[str, str] | None = None
    parts: dict[str, dict[str, Any]] = {}
    obligations: dict[str, dict[str, Any]] = {}


def load(file: str, text: str | bytes) -> tuple[Case, ...]:
    """The cases of one table; InvalidRequest (`bad_cases`) names the file and what is wrong."""
    try:
        raw = text.encode() if isinstance(text, str) else text
        value = canonical.loads(raw, bundles.MAX_BYTES)
        table = canonical.convert(value, _Table, what=file, error=InvalidRequest)
        return tuple(_case(file, table, line) for line in table.cases)
    except InvalidRequest as refused:
        raise _bad(file, refused.message) from None
    except KeyError as missing:
        raise _bad(file, f"no part or obligations named {missing}") from None


def shipped() -> tuple[Case, ...]:
    """The tables that modelvault ships."""
    return tuple(case for file, text in files.cases().items() for case in load(file, text))


def run(cases: Iterable[Case], own: Bundle, engine_for: EngineFor) -> list[Failure]:
    """Ask each case; returns those that got another answer than expected.

    Cases of equal data and site rules share an engine. Raises nothing of an engine's: a question
    without an answer is a failure too.
    """
    failures: list[Failure] = []
    for alike in _alike(cases):
        with engine_for(alike[0].bundle(own)) as engine:
            failures += [failed for case in alike if (failed := ask(case, engine))]
    return failures


def ask(case: Case, engine: PolicyEngine) -> Failure | None:
    """One case through an engine that has the case's bundle."""
    try:
        answer = engine.evaluate(case.input)
        to_decision(answer)
    except Unavailable as failure:
        return Failure(case.file, case.name, _text(case.expected), failure.message)
    if _comparable(answer.document) == _comparable(case.expected):
        return None
    return Failure(case.file, case.name, _text(case.expected), _text(answer.document))


def _alike(cases: Iterable[Case]) -> Iterable[list[Case]]:
    def settings(case: Case) -> str:
        return json.dumps([case.data, case.site], sort_keys=True)

    return (list(group) for _, group in groupby(sorted(cases, key=settings), settings))


def _case(file: str, table: _Table, line: _Line) -> Case:
    document: dict[str, Any] = {}
    for fragment in (*(table.parts[part] for part in line.use), line.input):
        document = _over(document, fragment)
    standing = [table.obligations[name] for name in line.obligations]
    obligations = [_obligation(*item) for part in standing for item in part.items()]
    expected = {
        "decision": line.decision,
        "context": {"reasons": list(line.reasons), "obligations": obligations},
    }
    name = " ".join((*line.use, *([line.name] if line.name else [])))
    try:
        to_decision(Evaluation(expected, "", ""))
    except Unavailable as failure:
        raise InvalidRequest("bad_cases", f"case {name!r}: {failure.message}") from None
    data = files.data() if table.data == "shipped" else table.data
    site = {} if table.site is None and data is not None else table.site
    return Case(file=file, name=name, input=document, expected=expected, data=data, site=site)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merges = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _over(old, value) if merges else value  # type: ignore[arg-type]
    return merged


def _obligation(id: str, value: object) -> dict[str, Any]:
    kind: object = id.rpartition(":")[2]
    if isinstance(value, dict):
        kind, value = value.get("type"), value.get("value")
    return {"id": id, "type": kind, "properties": {"value": value}}


def _comparable(document: object) -> object:
    """Reasons and obligations are sets: their order means nothing."""
    text = json.loads(json.dumps(document))
    for part in ("reasons", "obligations"):
        text["context"][part] = sorted(map(_text, text["context"][part]))
    return text


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _bad(file: str, why: str) -> ModelVaultError:
    return InvalidRequest("bad_cases", f"{file}: {why}", "docs/policies.md shows a table")
