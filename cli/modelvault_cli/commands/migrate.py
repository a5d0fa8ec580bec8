"""`migrate`: a ledger's tables to this version, or a whole vault into another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelvault.errors import InvalidRequest
from modelvault_cli.commands import arguments, plan
from modelvault_cli.commands.service import server_parts
from modelvault_cli.frame import NAMED_PATH, Globals, command, group, pass_globals

if TYPE_CHECKING:
    from modelvault.client.ahead import ModelForeseen
    from modelvault.client.migrate import ModelMoved, VersionLeftOut
    from modelvault.client.session import Session

_DISORDER = "in their order there: a later version was copied before an earlier one"

migrate = group("migrate", "Bring a ledger up to this version, or a vault into another.")


@command(
    "schema",
    "modelvault migrate schema --deployment /etc/modelvault/broker.toml",
    "modelvault migrate schema --home ~/.modelvault",
)
@click.option(
    "--deployment", type=NAMED_PATH, metavar="FILE", help="Of a served vault; the home's without."
)
@pass_globals
def schema(options: Globals, deployment: Path | None) -> None:
    """Bring a ledger's tables up to this version of modelvault.

    Make a copy first. Brokers of the version before go on working on it: upgrade them one by one
    afterwards.
    """
    from modelvault import wiring
    from modelvault.wiring import founding
    from modelvault_cli.documents import Migrated
    from modelvault_cli.output import emit

    if deployment is None and options.broker is not None:
        raise InvalidRequest(
            "usage", "a broker can't migrate its ledger", "run this where its deployment file is"
        )
    with server_parts():
        before, after = (
            wiring.migrate_home(options.home)
            if deployment is None
            else founding.migrate(deployment)
        )
    line = f"schema {before} -> {after}" if after > before else f"schema {after}, up to date"
    emit(options, Migrated(before=before, after=after), [line])


@command(
    "vault",
    "modelvault migrate vault --home ~/.modelvault --to-profile prod",
    "modelvault migrate vault --to-broker https://vault.example --owner idp:ml-team --dry-run",
)
@arguments.other_vault
@click.option(
    "--owner", metavar="WHO", help="Owner of the models that are made there; you without it."
)
@click.option(
    "--purpose", "-p", default="copy", show_default=True, metavar="NAME", help="What for."
)
@arguments.ticket
@arguments.dry_run
@pass_globals
def vault(
    options: Globals,
    to_home: Path | None,
    to_broker: str | None,
    to_profile: str | None,
    owner: str | None,
    purpose: str,
    ticket: str | None,
    dry_run: bool,
) -> int:
    """Copy all models, versions and tags of a vault into another.

    Such as a home's into a served one. Each version is copied as `modelvault copy` does it, in its
    order: where versions were deleted, the copies have lower numbers, and where a later one was
    copied before, the order is another: both are shown. Models that aren't there are made, with
    their classification. What is there already stays as it is, tags too: run again, it goes on
    where it stopped. Leases, the audit log, revocations and policies stay behind.

    Revoked versions are left out, and told of at the end; then the exit code is 1. --dry-run looks
    at pins, policies, revocations and what is there, and says what it can't see.
    """
    from modelvault.wiring import other as others
    from modelvault_cli.documents import MigratedVault
    from modelvault_cli.output import emit

    with (
        options.session() as session,
        others.connect(home=to_home, url=to_broker, profile=to_profile) as other,
    ):
        if dry_run:
            return _plan(options, session, other, purpose)
        moved = _moved(session, other, owner, purpose, ticket)
        document = MigratedVault(
            source=session.trust.vault,
            destination=other.trust.vault,
            models=moved,
            size=sum(each.size for each in moved),
        )
    left_out = [_left_out_line(one) for each in moved for one in each.left_out]
    emit(options, document, [*(line for each in moved for line in _lines(each)), *left_out])
    return 1 if left_out else 0


def _moved(
    session: Session, other: Session, owner: str | None, purpose: str, ticket: str | None
) -> tuple[ModelMoved, ...]:
    from modelvault.reference import Reference
    from modelvault_cli.output import progress, talk

    def tell(model: ModelMoved) -> None:
        talk(f"{Reference(model.tenant, model.model).name}: {len(model.versions)} versions")

    with progress("copying") as advance:
        return session.migrate(
            other, owner=owner, purpose=purpose, ticket=ticket, progress=advance, told=tell
        )


def _plan(options: Globals, session: Session, other: Session, purpose: str) -> int:
    from modelvault.reference import Reference
    from modelvault_cli.output import counted

    found, unseen = session.foresee_migration(other)
    vault = other.trust.vault
    reasons: tuple[str, ...] = ()
    for each in found:
        name = Reference(each.summary.tenant, each.summary.model)
        if each.newest is not None:
            exact = f"{name.name}@{each.newest}"
            reasons += plan.allowed(session, "export", exact, purpose, vault)
            reasons += () if each.made else plan.allowed(other, "push", name.name)
    if any(each.made for each in found):
        unseen += (f"whether you may make models in vault {vault}, and push to them",)
    count = sum(each.summary.versions - len(each.left_out) - each.there for each in found)
    plan.tell(
        options,
        "migrate",
        vault,
        f"copy {counted(count, 'version')} of {counted(len(found), 'model')} to vault {vault}",
        tuple(dict.fromkeys(reasons)),
        notes=tuple(note for each in found for note in _notes(each)),
        unchecked=(*unseen, *plan.UNCHECKED),
    )
    return 1 if any(each.left_out for each in found) else 0


def _notes(model: ModelForeseen) -> list[str]:
    from modelvault.reference import Reference
    from modelvault_cli.output import counted, size

    summary = model.summary
    name = Reference(summary.tenant, summary.model).name
    notes = [f"{name}: {counted(summary.versions, 'version')}, newest {size(summary.size)}"]
    if model.there:
        notes.append(f"{name}: {model.there} are there already, and stay as they are")
    if not model.in_order:
        notes.append(f"{name}: they won't be {_DISORDER}")
    return notes + [_left_out_line(each) for each in model.left_out]


def _lines(model: ModelMoved) -> list[str]:
    from modelvault.reference import Reference
    from modelvault_cli.output import size

    name = Reference(model.tenant, model.model).name
    new = [each for each in model.versions if each.new]
    lines = [
        f"{name}: {len(new)} of {len(model.versions)} versions copied, {size(model.size)}"
        + (", the model was made" if model.made else "")
    ]
    lines += [
        f"  @{each.version} is @{each.became} there"
        for each in model.versions
        if each.version != each.became
    ]
    if not model.in_order:
        lines.append(f"  not {_DISORDER}")
    lines += [f"  tag {tag}" for tag in model.tags]
    lines += [f"  tag {tag} was there, and stays where it is" for tag in model.tags_kept]
    return lines


def _left_out_line(each: VersionLeftOut) -> str:
    return (
        f"left out: {each.reference} is revoked"
        + (f" ({each.reason})" if each.reason else "")
        + (f"; tags not set: {', '.join(each.tags)}" if each.tags else "")
    )


for each in (schema, vault):
    migrate.add_command(each)
