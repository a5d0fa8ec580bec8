"""Each example says how it is called, when it is called otherwise."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
# Those that take options, or nothing at all.
OTHERS = {"train_and_resume.py", "distributed_checkpoint.py"}
MANY = {"run_transformers.py"}  # takes any number of words
PROGRAMS = {path.name: path for path in EXAMPLES.rglob("*.py") if path.name not in OTHERS}
USAGE = {
    name: re.findall(r'"usage: (.*)"', path.read_text("utf-8"))[0]
    for name, path in sorted(PROGRAMS.items())
}


class Called(dict[str, Any]):
    """Names of a program: its functions write down what they were called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        super().__init__(__name__="__main__", sys=sys, os=os, Path=Path)

    def __missing__(self, name: str) -> Any:
        if name in {"main", "train", "predict", "prepare", "found", "token"}:
            return lambda *given: self.calls.append(given)
        raise KeyError(name)


def begin(name: str) -> tuple[Called, Callable[[], None]]:
    """What a program does when it is started, without its imports: those are of whole engines."""
    *_, last = ast.parse(PROGRAMS[name].read_text("utf-8")).body
    assert isinstance(last, ast.If)
    code = compile(ast.Module([last], []), name, "exec")
    names = Called()
    return names, lambda: exec(code, {}, names)  # noqa: S102 - a file of this repository


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # one sets it
    before = os.umask(0o077)  # and one this
    yield
    os.umask(before)


@pytest.mark.parametrize(
    ("name", "words"),
    [*((name, 0) for name in USAGE), *((name, 9) for name in USAGE if name not in MANY)],
)
def test_other_words_than_it_takes(
    name: str, words: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, *["x"] * words])
    names, start = begin(name)
    with pytest.raises(SystemExit) as ended:
        start()
    told = capsys.readouterr()
    assert (ended.value.code, told.out, names.calls) == (2, "", [])
    assert re.fullmatch(rf"usage: {re.escape(name)} [^\n]+\n", told.err)


@pytest.mark.parametrize("name", USAGE)
def test_the_words_of_its_usage(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *others = USAGE[name].partition(" < ")[0].split(" | ")
    for way in (program.partition(" ")[2], *others):
        words = ["8" if word in {"RANK", "RANKS"} else word for word in way.split()]
        monkeypatch.setattr(sys, "argv", [name, *words])
        names, start = begin(name)
        with suppress(SystemExit):
            start()
        assert len(names.calls) == 1


def test_the_script() -> None:
    ended = subprocess.run(
        ["sh", EXAMPLES / "vllm_serve.sh"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("usage: sh examples/vllm_serve.sh REFERENCE")
