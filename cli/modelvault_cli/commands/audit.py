"""`audit`: what happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from modelvault_cli.commands import arguments
from modelvault_cli.frame import Globals, command, pass_globals

if TYPE_CHECKING:
    from modelvault.client.session import Session
    from modelvault.record import Entry
    from modelvault_cli.documents import Audit


@command(
    "audit",
    "modelvault audit",
    "modelvault audit --model minilm --limit 20",
    "modelvault audit --before 880",
    "modelvault audit --after 0 --limit 1000 --json",
)
@arguments.model
@click.option(
    "--after", type=click.IntRange(0), metavar="SEQ",
    help="From the one behind it on; 0: from the first.",
)  # fmt: skip
@click.option("--before", type=click.IntRange(1), metavar="SEQ", help="Only those before it.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@pass_globals
def audit(
    options: Globals, model: str | None, after: int | None, before: int | None, limit: int
) -> None:
    """Read the audit log: its last entries, the newest at the end.

    --before gives the last ones before an entry, --after the first ones behind it, both together
    what is between.
    """
    from modelvault_cli.output import emit, talk

    with options.session() as session:
        page = _page(session, model, after, before, limit)
    emit(options, page, entry_lines(page.entries))
    if options.json:
        return
    if not page.entries:
        talk("no entries")
    elif after is None and page.previous is not None:
        talk(f"there may be older ones: --before {page.previous}")
    elif after is not None and page.next is not None:
        talk(f"there may be more: --after {page.next}")


def _page(
    session: Session, reference: str | None, after: int | None, before: int | None, limit: int
) -> Audit:
    from modelvault_cli.documents import Audit

    if after is None:
        found = session.last_entries(before=before, limit=limit, reference=reference)
        older = len(found) == limit and found[0].seq > 1
        return Audit(
            entries=found,
            previous=found[0].seq if older else None,
            next=found[-1].seq if found and before is not None else None,
        )
    page = session.entries(after=after, limit=limit, reference=reference)
    found = tuple(one for one in page.entries if before is None or one.seq < before)
    return Audit(
        entries=found,
        previous=found[0].seq if found and after else None,
        next=page.next if len(found) == len(page.entries) else None,
    )


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
