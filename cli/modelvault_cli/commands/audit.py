"""`audit`: what happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from modelvault_cli.commands import arguments
from modelvault_cli.frame import Globals, command, pass_globals

if TYPE_CHECKING:
    from modelvault.record import Entry


@command(
    "audit",
    "modelvault audit",
    "modelvault audit --model minilm --after 120 --json",
)
@arguments.model
@click.option("--after", type=click.IntRange(0), default=0, metavar="SEQ", help="Go on behind it.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@pass_globals
def audit(options: Globals, model: str | None, after: int, limit: int) -> None:
    """Read the audit log, oldest first."""
    from modelvault_cli.documents import Audit
    from modelvault_cli.output import emit, talk

    with options.session() as session:
        page = session.entries(after=after, limit=limit, reference=model)
    emit(options, Audit(entries=page.entries, next=page.next), entry_lines(page.entries))
    if page.next is not None and not options.json:
        talk(f"there may be more: --after {page.next}")


def entry_lines(entries: tuple[Entry, ...]) -> list[str]:
    """The entries as a table."""
    from modelvault_cli.output import table

    rows = (
        (
            str(one.seq),
            one.at,
            one.actor,
            one.action,
            one.outcome,
            _target(one),
            one.purpose or "",
            " ".join(one.reasons),
            _what(one),
        )
        for one in entries
    )
    header = ("SEQ", "AT", "ACTOR", "ACTION", "OUTCOME", "MODEL", "PURPOSE", "REASONS", "WHAT")
    return table(header, rows)


def _what(one: Entry) -> str:
    """What a change was to, for those whose model doesn't say it."""
    told = one.details
    if one.action == "revoke" and "target" in told:
        return f"{told.get('kind')} {told['target']}"
    if one.action == "explain" and "explained" in told:
        return f"{told['explained']} by {told.get('about')}"
    if one.action in {"create", "classify"} and one.outcome == "done":
        names = ("classification", "owner")
        return ", ".join(
            _changed(name, told.get(f"{name}_before"), told[name])
            for name in names
            if name in told and told[name] != told.get(f"{name}_before")
        )
    return ""


def _changed(name: str, before: object, after: object) -> str:
    return f"{name} {after}" if before is None else f"{name} {before}→{after}"


def _target(one: Entry) -> str:
    from modelvault.reference import Reference

    if one.model is None:
        return ""
    return str(Reference(one.tenant or "default", one.model, version=one.version))
