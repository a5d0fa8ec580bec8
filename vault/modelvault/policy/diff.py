"""What one policy changes against another: its text, its data, and the decisions that differ."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec

from modelvault.errors import ModelVaultError
from modelvault.policy.bundle import Bundle
from modelvault.policy.cases import Case, EngineFor
from modelvault.policy.document import to_decision
from modelvault.policy.questions import Question, drawn

NO_ANSWER = "no answer"

Kind = Literal["allowed", "looser", "refused", "stricter", "no_answer", "reasons"]


class ModuleChange(msgspec.Struct, frozen=True):
    """A module that was `added`, `removed` or `changed`, with the lines of a unified diff."""

    path: str
    kind: str
    lines: tuple[str, ...]


class DataChange(msgspec.Struct, frozen=True):
    """A place in data.json, as a JSON pointer, and what stands there before and after, as JSON
    text; null where there is nothing."""

    place: str
    before: str | None
    after: str | None


class DecisionChange(msgspec.Struct, frozen=True):
    """A question that is decided otherwise: `allow`, `deny` or `no answer`, with the reasons.

    `kind`: what was refused is `allowed`, what was allowed is `refused`, an obligation of what is
    allowed is gone or `looser`, or none is and one is `stricter`; there is `no_answer` any more; or
    only the `reasons` are others. `widens` where it is `allowed` or `looser`.
    """

    name: str
    before: str
    after: str
    widens: bool
    kind: Kind


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """All of it, in order."""

    modules: tuple[ModuleChange, ...]
    data: tuple[DataChange, ...]
    decisions: tuple[DecisionChange, ...]


def compare(old: Bundle, new: Bundle, cases: Iterable[Case], engine_for: EngineFor) -> Changes:
    """What `new` changes against `old`.

    Both are asked what the cases ask, whatever data these bring for their own tables, and what
    `questions` draws from the two policies themselves."""
    if old.revision == new.revision:
        return Changes(modules=(), data=(), decisions=())
    asked = [Question(f"{case.file}: {case.name}", case.input) for case in cases]
    asked += drawn(old, new)
    return Changes(
        modules=tuple(_modules(old, new)),
        data=tuple(_data(old.data, new.data, ())),
        decisions=tuple(_decisions(old, new, asked, engine_for)),
    )


def _modules(old: Bundle, new: Bundle) -> Iterator[ModuleChange]:
    for path in sorted(old.modules.keys() | new.modules.keys()):
        before, after = old.modules.get(path), new.modules.get(path)
        if before == after:
            continue
        kind = "added" if before is None else "removed" if after is None else "changed"
        lines = difflib.unified_diff(
            (before or "").splitlines(), (after or "").splitlines(), path, path, lineterm=""
        )
        yield ModuleChange(path, kind, tuple(lines))


def _data(old: object, new: object, way: tuple[str, ...]) -> Iterator[DataChange]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _data(old.get(key, _ABSENT), new.get(key, _ABSENT), (*way, key))
    elif _json(old) != _json(new):  # as text: Python takes 1 and true for the same
        yield DataChange(_pointer(way), _json(old), _json(new))


class _Absent:
    pass


_ABSENT = _Absent()


def _json(value: object) -> str | None:
    return None if value is _ABSENT else msgspec.json.encode(value, order="sorted").decode()


def _pointer(way: tuple[str, ...]) -> str:
    """RFC 6901: a name with a slash in it is one step."""
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in way)


def _decisions(
    old: Bundle, new: Bundle, asked: list[Question], engine_for: EngineFor
) -> Iterator[DecisionChange]:
    with engine_for(old) as before, engine_for(new) as after:
        for one in asked:
            first, second = _decide(before, one), _decide(after, one)
            if first != second:
                kind = _kind(first, second)
                widens = kind in {"allowed", "looser"}
                yield DecisionChange(one.name, _told(first), _told(second), widens, kind)


def _decide(engine: Any, asked: Question) -> dict[str, Any] | None:  # noqa: ANN401
    try:
        decision = to_decision(engine.evaluate(asked.input))
    except ModelVaultError:
        return None
    return {
        "allowed": decision.allowed,
        "reasons": decision.reasons,
        "obligations": msgspec.structs.asdict(decision.obligations),
    }


def _told(decision: dict[str, Any] | None) -> str:
    if decision is None:
        return NO_ANSWER
    kept = {
        name: value
        for name, value in decision["obligations"].items()
        if value is not None and value is not False
    }
    obligations = f" with {msgspec.json.encode(kept).decode()}" if kept else ""
    word = "allow" if decision["allowed"] else "deny"
    return f"{word} ({', '.join(decision['reasons'])}){obligations}"


def _kind(before: dict[str, Any] | None, after: dict[str, Any] | None) -> Kind:
    if after is None:
        return "no_answer"
    before_allowed = before is not None and before["allowed"]
    if before is None or not before_allowed or not after["allowed"]:
        if before_allowed == after["allowed"]:
            return "reasons"
        return "allowed" if after["allowed"] else "refused"
    if before["obligations"] == after["obligations"]:
        return "reasons"
    looser = any(
        _looser(name, before["obligations"][name], value)
        for name, value in after["obligations"].items()
    )
    return "looser" if looser else "stricter"


def _looser(name: str, before: Any, after: Any) -> bool:  # noqa: ANN401
    if before == after:
        return False
    if name == "allow_pickle":
        return bool(after)
    if name in {"memory_only", "isolated_memory"}:
        return not after
    if name == "grace_s":  # the only one whose absence is the least: none
        return (after or 0) > (before or 0)
    if name == "files":
        return after is None or (before is not None and not set(after) <= set(before))
    return after is None or (before is not None and after > before)
