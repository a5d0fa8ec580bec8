"""What reaches people and programs."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from modelvault.errors import AccessDenied, InvalidRequest
from modelvault_cli import bar, documents, output
from modelvault_cli.frame import Declined, Globals


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (90_868_376, "86.7 MiB"),
        (1 << 30, "1.0 GiB"), (5 << 40, "5.0 TiB"), (5 << 50, "5120.0 TiB"),
    ],
)  # fmt: skip
def test_sizes(count: int, text: str) -> None:
    assert output.size(count) == text


@pytest.mark.parametrize(
    ("count", "one", "many", "text"),
    [
        (0, "file", "", "0 files"), (1, "file", "", "1 file"), (1200, "file", "", "1,200 files"),
        (2, "entry", "entries", "2 entries"), (1, "entry", "entries", "1 entry"),
    ],
)  # fmt: skip
def test_counts(count: int, one: str, many: str, text: str) -> None:
    assert output.counted(count, one, many) == text


@pytest.mark.parametrize(("ms", "text"), [(0, "0 ms"), (999, "999 ms"), (1240, "1.24 s")])
def test_seconds(ms: int, text: str) -> None:
    assert output.seconds(ms) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("minilm", "minilm"),
        ("Größe ü", "Größe ü"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("a\nb", "a\\nb"),
        ("\u202eexe", "\\u202eexe"),
        ("\udcff", "\\udcff"),
    ],
)
def test_nothing_drives_the_terminal(text: str, shown: str) -> None:
    assert output.printable(text) == shown


def test_what_utf_8_cannot_encode_is_written_out(capsys: pytest.CaptureFixture[str]) -> None:
    """Names of files that aren't UTF-8, as Python holds them."""
    error = InvalidRequest("bad_path", "w\udcff", "rename \udcfe", names=["\udc80", {"\udc81": 1}])
    body = json.loads(output.error_document(error, 2))["error"]
    assert (body["message"], body["hint"]) == ("w\\udcff", "rename \\udcfe")
    assert body["details"] == {"names": ["\\udc80", {"\\udc81": 1}]}
    options = Globals()
    options.json = True
    output.emit(options, documents.Deleted(target="\udcff\u00e9"), [])
    assert json.loads(capsys.readouterr().out)["target"] == "\\udcff\u00e9"


def test_tables_have_columns() -> None:
    assert output.table(("A", "LONG"), [("xyz", "1"), ("", "\x1b")]) == [
        "A    LONG",
        "xyz  1",
        "     \\x1b",
    ]


@pytest.mark.parametrize(
    ("columns", "lines"),
    [
        (30, ["A    LONG  LAST", "xyz  12    three words", "b"]),
        (22, ["A    LONG  LAST", "xyz  12    three words", "b"]),
        (21, ["A    LONG", "    LAST", "xyz  12", "    three words", "b"]),
        (8, ["A", "    LONG", "    LAST", "xyz", "    12", "    three words", "b"]),
    ],
)
def test_what_is_too_wide_for_a_terminal_goes_below(
    monkeypatch: pytest.MonkeyPatch, columns: int, lines: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    rows = [("xyz", "12", "three words"), ("b", "", "")]
    monkeypatch.setattr(sys, "stdout", Terminal(True))
    assert output.table(("A", "LONG", "LAST"), rows) == lines
    monkeypatch.setattr(sys, "stdout", Terminal(False))
    assert output.table(("A", "LONG", "LAST"), rows)[1] == "xyz  12    three words"


def test_no_rows_no_table() -> None:
    assert output.table(("A",), []) == []


def test_fields_leave_empty_ones_out() -> None:
    assert output.fields({"a": "1", "long": "2", "none": ""}) == ["a:    1", "long: 2"]
    assert output.fields({}) == []


def test_json_or_lines(capsys: pytest.CaptureFixture[str]) -> None:
    options = Globals()
    output.emit(options, documents.Deleted(target="m@1"), ["m@1 is hidden"])
    assert capsys.readouterr().out == "m@1 is hidden\n"
    options.json = True
    output.emit(options, documents.Deleted(target="m@1"), ["m@1 is hidden"])
    assert json.loads(capsys.readouterr().out) == {"target": "m@1"}


def test_error_documents_hold_plain_details() -> None:
    error = AccessDenied("denied", "no", "ask", reasons=("a",), owner="o", other=InvalidRequest)
    told = json.loads(output.error_document(error, 3))["error"]
    assert told["code"] == "denied"
    assert told["family"] == "access_denied"
    assert told["exit_code"] == 3
    assert told["details"]["reasons"] == ["a"]
    assert isinstance(told["details"]["other"], str)


class Terminal:
    """Stands for stdin or stderr."""

    def __init__(self, terminal: bool) -> None:
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None: ...


def test_yes_asks_nothing() -> None:
    output.confirm("Sure?", yes=True)


@pytest.mark.parametrize(("keyboard", "screen"), [(True, False), (False, True), (False, False)])
def test_without_a_terminal_yes_must_be_given(
    monkeypatch: pytest.MonkeyPatch, keyboard: bool, screen: bool
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(keyboard))
    monkeypatch.setattr(sys, "stderr", Terminal(screen))
    with pytest.raises(InvalidRequest, match="no terminal") as caught:
        output.confirm("Sure?", yes=False)
    assert caught.value.code == "needs_yes"


@pytest.mark.parametrize("answer", [True, False])
def test_on_a_terminal_it_asks(monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(sys, "stdin", Terminal(True))
    monkeypatch.setattr(sys, "stderr", Terminal(True))
    monkeypatch.setattr("click.confirm", lambda text, err: asked.append((text, err)) or answer)
    with nullcontext() if answer else pytest.raises(Declined):
        output.confirm("Sure?", yes=False)
    assert asked == [("Sure?", True)]


def test_no_progress_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal(False))
    with output.progress("encrypting") as advance:
        assert advance is None


@pytest.mark.parametrize(
    ("done", "total", "speed", "shown"),
    [
        (0, None, None, ("", "")),
        (0, 1 << 20, None, ("0 B of 1.0 MiB", "")),
        (1 << 19, 1 << 20, 3 * (1 << 20), ("512.0 KiB of 1.0 MiB", "3.0 MiB/s")),
    ],
)
def test_the_bar_has_our_units(
    done: int, total: int | None, speed: float | None, shown: tuple[str, str]
) -> None:
    task = SimpleNamespace(completed=done, total=total, speed=speed, finished_speed=None)
    columns = bar.Sizes(), bar.Speed()
    assert tuple(column.render(task).plain for column in columns) == shown  # type: ignore[arg-type]


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal(True))
    with output.progress("encrypting [bold]m[/bold]") as advance:
        assert advance is not None
        advance(1, 10)
        advance(10, 10)
