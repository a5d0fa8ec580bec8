"""The generated half of docs/cli.md: every command's help, and the JSON documents.

.venv/bin/python tests/support/cli_reference.py        # writes docs/cli.md anew
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
from click.testing import CliRunner

from modelvault_cli import documents
from modelvault_cli.main import cli

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
WIDTH = 100
MARKS = {
    name: (f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n") for name in ("help", "documents")
}


def commands(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every command, groups before their own."""
    context = click.Context(group)
    for name in group.list_commands(context):
        yield (*path, name)
        found = group.get_command(context, name)
        if isinstance(found, click.Group):
            yield from commands(found, (*path, name))


def help_text(path: tuple[str, ...]) -> str:
    """What `modelvault <path> --help` prints on a terminal of 100 columns."""
    runner = CliRunner(env={"COLUMNS": str(WIDTH)})
    result = runner.invoke(cli, [*path, "--help"], prog_name="modelvault", terminal_width=WIDTH)
    if result.exit_code:
        raise result.exception or AssertionError(result.output)
    return result.output


def rendered_help() -> str:
    """All help texts, as the page holds them."""
    parts = [f"### modelvault\n\n```text\n{help_text(())}```\n"]
    for path in commands():
        parts.append(f"### modelvault {' '.join(path)}\n\n```text\n{help_text(path)}```\n")
    return "\n" + "\n".join(parts) + "\n"


def rendered_documents() -> str:
    """The fields of all documents, as the page holds them."""
    types = [*dict.fromkeys(documents.BY_COMMAND.values()), documents.Plan, documents.Failure]
    _, components = msgspec.json.schema_components(types)
    by_type = {
        kind: [name for name, made in documents.BY_COMMAND.items() if made is kind]
        for kind in types
    }
    lines = []
    for name, schema in sorted(components.items()):
        if schema.get("type") != "object" or "properties" not in schema:
            continue
        printed = [c for kind, names in by_type.items() if kind.__name__ == name for c in names]
        by = f" Printed by {', '.join(f'`{c}`' for c in printed)}." if printed else ""
        lines.append(f"**{name}.** {_one_line(schema.get('description', ''))}{by}\n")
        lines += ["| field | type |", "|---|---|"]
        lines += [f"| `{field}` | {_type(each)} |" for field, each in schema["properties"].items()]
        lines.append("")
    return "\n" + "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{one}`" for one in schema["enum"])
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_type(schema['items'])}" if "items" in schema else "list"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    return str(kind)


def filled(page: str) -> str:
    """The page with both generated parts as they should be."""
    for name, text in (("help", rendered_help()), ("documents", rendered_documents())):
        begin, end = MARKS[name]
        head, _, rest = page.partition(begin)
        _, _, tail = rest.partition(end)
        page = head + begin + text + end + tail
    return page


if __name__ == "__main__":
    os.environ.pop("MODELVAULT_HOME", None)
    PAGE.write_text(filled(PAGE.read_text("utf-8")), "utf-8")
