"""How results, talk and progress reach people and programs.

stdout carries data: a table, some lines or one JSON document. stderr carries talk. Progress is
drawn on stderr, and only where that is a terminal.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click
import msgspec

from modelvault.errors import InvalidRequest, ModelVaultError
from modelvault_cli.frame import Declined, Globals

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_GAP, _INDENT = "  ", "    "
Progress = Callable[[int, int], None]


def size(count: int) -> str:
    """Bytes for people: `512 B`, `86.7 MiB`."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{count} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def counted(count: int, one: str, many: str = "") -> str:
    """A number of things for people: `1 file`, `1,200 files`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def seconds(ms: float) -> str:
    """A duration in milliseconds for people: `12 ms`, `1.24 s`."""
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.2f} s"


def printable(text: str) -> str:
    """`text` without characters that could drive a terminal: others wrote some of what we show."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def talk(text: str) -> None:
    """A line on stderr."""
    click.echo(printable(text), err=True)


def emit(options: Globals, document: msgspec.Struct, lines: Iterable[str]) -> None:
    """The result: the document with --json, else its lines for people."""
    if options.json:
        click.echo(_json(document))
        return
    for line in lines:
        click.echo(printable(line))


def error_document(error: ModelVaultError, exit_code: int) -> str:
    """The JSON document of a failure."""
    from modelvault_cli.documents import ErrorBody, Failure

    body = ErrorBody(
        code=error.code,
        family=error.family,
        message=error.message,
        hint=error.hint,
        exit_code=exit_code,
        details=_plain(error.details),
    )
    return _json(Failure(error=body))


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of left-aligned columns; no rows, no lines.

    On a terminal that is too narrow for a whole row the last columns go below, indented: nothing is
    cut. Where output is no terminal a row is one line.
    """
    cells = [tuple(printable(cell) for cell in row) for row in rows]
    if not cells:
        return []
    cells.insert(0, tuple(headers))
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    groups = _groups(widths, _room())
    return [line for row in cells for line in _stacked(row, widths, groups)]


def _room() -> int | None:
    """Columns of the terminal that output goes to; None where it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _groups(widths: Sequence[int], room: int | None) -> list[range]:
    """Which columns stand side by side: as many as there is room for, then the next ones."""
    if room is None:
        return [range(len(widths))]
    groups, begin, used = [], 0, 0
    for column, width in enumerate(widths):
        if column > begin and used + width > room:
            groups.append(range(begin, column))
            begin, used = column, len(_INDENT)
        used += width + len(_GAP)
    return [*groups, range(begin, len(widths))]


def _stacked(row: Sequence[str], widths: Sequence[int], groups: Sequence[range]) -> Iterator[str]:
    for number, group in enumerate(groups):
        line = _GAP.join(row[column].ljust(widths[column]) for column in group).rstrip()
        if line or not number:
            yield line if not number else _INDENT + line


def fields(pairs: Mapping[str, str]) -> list[str]:
    """`name: value` lines with the values in one column; empty values are left out."""
    width = max((len(name) for name in pairs), default=0) + 1
    return [f"{name + ':':<{width}} {value}" for name, value in pairs.items() if value]


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is destroyed. Without a terminal `--yes` must have been given.

    Raises Declined for a no."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InvalidRequest(
            "needs_yes", f"{question} There is no terminal to ask on", "add --yes if you mean it"
        )
    if not click.confirm(printable(question), err=True):
        raise Declined


@contextmanager
def progress(what: str) -> Iterator[Progress | None]:
    """Yield a function that takes (bytes done, bytes in all); None where nobody looks."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich import progress as rich
    from rich.console import Console
    from rich.table import Column

    from modelvault_cli import bar

    with rich.Progress(
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(),
        bar.Sizes(table_column=Column(no_wrap=True)),
        bar.Speed(table_column=Column(no_wrap=True)),
        rich.TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as shown:
        task = shown.add_task(printable(what), total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def _json(document: msgspec.Struct) -> str:
    try:
        encoded = msgspec.json.encode(document)
    except UnicodeEncodeError:  # a file's name that isn't UTF-8, as Python holds it
        encoded = msgspec.json.encode(_encodable(msgspec.to_builtins(document)))
    return msgspec.json.format(encoded, indent=2).decode()


def _encodable(value: Any) -> Any:  # noqa: ANN401 - any JSON
    r"""The value with `\udcff` written out where a text holds what UTF-8 can't encode."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encodable(each) for each in value]
    return value


def _plain(details: Mapping[str, object]) -> dict[str, Any]:
    simple = (str, int, bool, float, type(None))
    return {
        key: value if isinstance(value, (*simple, list, tuple, dict)) else str(value)
        for key, value in details.items()
    }
