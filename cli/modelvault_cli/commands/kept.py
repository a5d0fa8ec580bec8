"""`policy revisions`, `fetch`, `diff`, `rollback`: the policies that a broker keeps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelvault_cli.commands import arguments
from modelvault_cli.frame import NAMED_PATH, Globals, command, pass_globals

if TYPE_CHECKING:
    from modelvault.policy.bundle import Bundle
    from modelvault.policy.diff import Changes

_revision = click.argument("revision", required=False, metavar="[REVISION]")


@command("revisions", "modelvault policy revisions --broker https://vault.example")
@pass_globals
def revisions(options: Globals) -> None:
    """List the policies that the broker keeps, newest first.

    It says which one is in force.
    """
    from modelvault_cli.documents import PolicyRevisions
    from modelvault_cli.output import emit, table

    with options.session() as session:
        found = session.policies()
    rows = ((each.revision, each.kept_at, "in force" if each.current else "") for each in found)
    emit(options, PolicyRevisions(revisions=found), list(table(("REVISION", "KEPT AT", ""), rows)))


@command(
    "fetch",
    "modelvault policy fetch ./policies --broker https://vault.example",
    "modelvault policy fetch ./old sha256:1c4e…",
)
@click.argument("folder", type=NAMED_PATH)
@_revision
@pass_globals
def fetch(options: Globals, folder: Path, revision: str | None) -> None:
    """Write a kept policy into a new folder, to look at and to edit.

    That is data.json and site/*.rego. Without REVISION the one in force. `modelvault policy publish
    FOLDER` puts the edited one into force.
    """
    from modelvault import wiring
    from modelvault_cli.documents import PolicyFetched
    from modelvault_cli.output import emit

    with options.session() as session:
        policy = session.policy(revision)
    found = wiring.policy_written(policy, folder)
    emit(
        options,
        PolicyFetched(folder=str(folder), revision=found),
        [f"wrote {found} to {folder}", f"next: edit it, then modelvault policy diff {folder}"],
    )


@command(
    "diff",
    "modelvault policy diff ./policies --broker https://vault.example",
    "modelvault policy diff --shipped",
    "modelvault policy diff --against sha256:1c4e… ./policies",
)
@click.argument("folder", type=NAMED_PATH, required=False)
@click.option("--against", metavar="REVISION", help="A kept policy, instead of the one in force.")
@click.option("--shipped", is_flag=True, help="Against what this version of modelvault ships.")
@pass_globals
def diff(options: Globals, folder: Path | None, against: str | None, shipped: bool) -> int:
    """Say what edited policies would change.

    Those are rules, data, and decisions. A summary comes first. Both are asked for everybody whom a
    grant of either names: each action, classification and purpose; and what the shipped case tables
    ask. Without FOLDER the edited policies are the home's. Nothing is published. The exit code is 1
    when a decision would be wider than before.
    """
    from modelvault import wiring
    from modelvault.policy import cases
    from modelvault.policy import diff as diffs
    from modelvault.policy import shipped as shipping
    from modelvault_cli.documents import PolicyDiff
    from modelvault_cli.output import emit

    new = wiring.policy_edited(
        folder, options.broker, home=options.home, profile=options.profile
    ).working()
    old = shipping.bundle() if shipped else _standing(options, against, remote=folder is not None)
    changes = diffs.compare(
        old, new, cases.shipped(), lambda which: wiring.policy_engine(bundle=which)
    )
    document = PolicyDiff(
        before=old.revision,
        after=new.revision,
        modules=changes.modules,
        data=changes.data,
        decisions=changes.decisions,
    )
    emit(options, document, _lines(changes))
    return 1 if any(change.widens for change in changes.decisions) else 0


@command("rollback", "modelvault policy rollback sha256:1c4e… --yes")
@click.argument("revision")
@arguments.yes
@pass_globals
def rollback(options: Globals, revision: str, yes: bool) -> None:
    """Put a policy that the broker keeps into force again.

    It must evaluate, and must still let you publish policies.
    """
    from modelvault_cli.documents import Published
    from modelvault_cli.output import confirm, emit

    confirm(f"Put {revision[:19]}… into force?", yes=yes)
    with options.session() as session:
        session.enforce_policy(revision)
    emit(options, Published(dry_run=False, revision=revision), [f"in force: {revision}"])


def _standing(options: Globals, revision: str | None, *, remote: bool) -> Bundle:
    """The policy to compare with: kept at the broker, or published in the home."""
    from modelvault import wiring

    if not remote and options.broker is None:
        return wiring.policy_published(options.home, revision)
    with options.session() as session:
        return wiring.policy_of(session.policy(revision))


_KINDS = {
    "allowed": "WIDER: allowed now, refused before",
    "looser": "WIDER: allowed as before, an obligation is looser or gone",
    "refused": "narrower: refused now, allowed before",
    "stricter": "narrower: allowed as before, an obligation is stricter or new",
    "no_answer": "no answer any more: nothing is granted",
    "reasons": "the same decision for other reasons",
}


def _summary(changes: Changes) -> list[str]:
    """Which files differ, and how many decisions get wider or narrower."""
    from collections import Counter

    files = [f"{module.path} ({module.kind})" for module in changes.modules]
    if changes.data:
        places = len(changes.data)
        files.insert(0, f"data.json ({places} {'place' if places == 1 else 'places'})")
    counts = Counter[str](decision.kind for decision in changes.decisions)
    width = len(str(max(counts.values(), default=0)))
    told = [f"  {counts[kind]:>{width}} {text}" for kind, text in _KINDS.items() if counts[kind]]
    if not files and not told:
        return []
    decisions = f"decisions that differ: {len(changes.decisions)}"
    return [f"files that differ: {', '.join(files) or 'none'}", decisions, *told, ""]


def _lines(changes: Changes) -> list[str]:
    lines = _summary(changes)
    for module in changes.modules:
        lines += [f"{module.kind} {module.path}", *(f"  {line}" for line in module.lines)]
    for change in changes.data:
        before, after = (
            "nothing" if each is None else each for each in (change.before, change.after)
        )
        lines += [f"data.json {change.place}", f"  - {before}", f"  + {after}"]
    for decision in changes.decisions:
        wider = "  WIDER" if decision.widens else ""
        lines += [f"{decision.name}{wider}", f"  - {decision.before}", f"  + {decision.after}"]
    return lines or ["no difference"]
