"""Each example says how it is called, when it is called otherwise."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
# Those that take options, or nothing at all.
OTHERS = {"train_and_resume.py", "distributed_checkpoint.py"}
PROGRAMS = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name not in OTHERS)


class Called(dict[str, Any]):
    """Names of a program: its functions write down what they were called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        super().__init__(__name__="__main__", sys=sys, os=__import__("os"))

    def __missing__(self, name: str) -> Any:
        if name in {"main", "train", "predict"}:
            return lambda *given: self.calls.append(given)
        raise KeyError(name)


def begin(name: str) -> tuple[Called, Any]:
    """What a program does when it is started, without its imports: those are of whole engines."""
    *_, last = ast.parse((EXAMPLES / name).read_text("utf-8")).body
    assert isinstance(last, ast.If)
    code = compile(ast.Module([last], []), name, "exec")
    names = Called()
    return names, lambda: exec(code, {}, names)  # noqa: S102 - a file of this repository


@pytest.mark.parametrize("name", PROGRAMS)
def test_too_few_words_or_too_many(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # one sets it
    for words in ([], ["x"] * 9):
        if words and "..." in (EXAMPLES / name).read_text("utf-8").rpartition("usage: ")[2]:
            continue
        monkeypatch.setattr(sys, "argv", [name, *words])
        names, start = begin(name)
        with pytest.raises(SystemExit) as ended:
            start()
        told = capsys.readouterr()
        assert (ended.value.code, told.out, names.calls) == (2, "", [])
        assert re.fullmatch(rf"usage: {re.escape(name)} [^\n]+\n", told.err)


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_the_usage_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (EXAMPLES / name).read_text("utf-8")
    (usage,) = re.findall(rf'"usage: {re.escape(name)} ([^"]*)"', text)
    words = [
        "8" if word in {"RANK", "RANKS"} else word
        for word in usage.partition(" | ")[2].split() or usage.partition(" < ")[0].split()
    ]
    monkeypatch.setattr(sys, "argv", [name, *words])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # one sets it
    names, start = begin(name)
    start()
    assert len(names.calls) == 1


def test_the_script() -> None:
    ended = subprocess.run(
        ["sh", EXAMPLES / "vllm_serve.sh"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("usage: sh examples/vllm_serve.sh REFERENCE")
