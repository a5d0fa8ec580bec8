"""`policy`: an admin tests, checks, explains and publishes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from modelvault.errors import InvalidRequest, NotFound
from modelvault_cli.commands import arguments
from modelvault_cli.frame import NAMED_PATH, Globals, command, group, pass_globals

if TYPE_CHECKING:
    from modelvault.access import Action, Principal
    from modelvault.lease import Explanation
    from modelvault.policy.bundle import Bundle
    from modelvault.policy.cases import Case

policy = group("policy", "Test, check, explain and publish policies.")


@command(
    "test",
    "modelvault policy test",
    "modelvault policy test ./our-cases.json",
    "modelvault policy test ./policies",
)
@click.argument(
    "named", metavar="[FOLDER] [TABLE]...", nargs=-1, type=click.Path(path_type=Path, exists=True)
)
@pass_globals
def test(options: Globals, named: tuple[Path, ...]) -> int:
    """Ask the edited policies every case of some decision tables.

    Without FOLDER the policies are those of the home; without a TABLE the shipped tables are asked,
    and cases/*.json beside the policies. Needs no OPA. The exit code is 1 when a case gets another
    decision than it should.
    """
    from modelvault import wiring
    from modelvault.policy import cases
    from modelvault_cli.documents import CaseFailure, PolicyTest
    from modelvault_cli.output import emit

    folders = [path for path in named if path.is_dir()]
    if len(folders) > 1:
        raise InvalidRequest("usage", "more than one FOLDER is named", "name one")
    tables = tuple(path for path in named if path not in folders)
    bundle, own_tables = _working(options, folders[0] if folders else None)
    asked = _cases(tables or own_tables, shipped=not tables)
    failures = tuple(
        CaseFailure(file=one.file, name=one.name, expected=one.expected, got=one.got)
        for one in cases.run(asked, bundle, lambda which: wiring.policy_engine(bundle=which))
    )
    document = PolicyTest(revision=bundle.revision, cases=len(asked), failures=failures)
    lines = [
        line
        for one in failures
        for line in (f"{one.file}: {one.name}", f"  expected {one.expected}", f"  got {one.got}")
    ]
    emit(options, document, [*lines, f"{len(asked)} cases, {len(failures)} failed"])
    return 1 if failures else 0


def _working(options: Globals, named: Path | None) -> tuple[Bundle, tuple[Path, ...]]:
    """The edited policies and their own tables; what is shipped, where there is no home."""
    from modelvault import wiring
    from modelvault.policy import shipped
    from modelvault_cli.output import talk

    try:
        folder = wiring.policy_edited(
            named, options.broker, home=options.home, profile=options.profile
        )
    except NotFound:
        talk("no vault here: these are the shipped policies")
        return shipped.bundle(), ()
    return folder.working(), tuple(sorted((folder.root / "cases").glob("*.json")))


def _cases(tables: tuple[Path, ...], *, shipped: bool) -> tuple[Case, ...]:
    from modelvault.policy import cases

    own = tuple(case for path in tables for case in cases.load(str(path), path.read_bytes()))
    return (*cases.shipped(), *own) if shipped else own


@command("check", "modelvault policy check", "modelvault policy check ./policies")
@click.argument("folder", type=NAMED_PATH, required=False)
@pass_globals
def check(options: Globals, folder: Path | None) -> int:
    """Look for mistakes in the edited policies.

    Those are of syntax, names that nobody knows, and patterns that match nothing. Without FOLDER
    they are those of the home. The exit code is 1 when there is a finding.
    """
    from modelvault import wiring
    from modelvault.wiring import checking
    from modelvault_cli.documents import PolicyCheck, PolicyFinding
    from modelvault_cli.output import emit

    checked = wiring.policy_edited(
        folder, options.broker, home=options.home, profile=options.profile
    )
    with options.session() as session:
        findings = tuple(
            PolicyFinding(file=one.file, line=one.line, code=one.code, text=one.text)
            for one in checking.check(checked, session)
        )
    lines = [f"{one.file}:{one.line}: {one.code}: {one.text}" for one in findings]
    emit(options, PolicyCheck(findings=findings), lines or ["no findings"])
    return 1 if findings else 0


@command(
    "explain",
    "modelvault policy explain load minilm:prod --purpose inference",
    "modelvault policy explain export minilm --sub ci-7 --group ml-engineers -p export",
)
@click.argument("action")
@arguments.reference
@click.option("--purpose", "-p", metavar="NAME", help="What for: inference, evaluation, …")
@click.option("--destination", metavar="VAULT", help="The vault that a copy would go to.")
@click.option("--sub", metavar="NAME", help="Of the local issuer, instead of yourself.")
@click.option("--group", "groups", multiple=True, metavar="NAME", help="A group of --sub.")
@pass_globals
def explain(
    options: Globals,
    action: str,
    reference: str,
    purpose: str | None,
    destination: str | None,
    sub: str | None,
    groups: tuple[str, ...],
) -> int:
    """Say what the published policy would answer, and why. Nothing is granted.

    It is an action of its own, which stands in the audit log. The exit code is 1 when the answer
    is no.
    """
    from modelvault_cli.documents import Explained, Obligations
    from modelvault_cli.output import emit

    asked = _action(action)
    with options.session() as session:
        answer = session.explain(
            asked,
            reference,
            purpose=purpose,
            subject=_subject(sub, groups),
            destination=destination,
        )
    document = Explained(
        action=action,
        target=reference,
        allowed=answer.allowed,
        reasons=answer.reasons,
        obligations=Obligations.of(answer.obligations),
        revision=answer.revision,
        decision_id=answer.decision_id,
    )
    emit(options, document, _explained(answer))
    return 0 if answer.allowed else 1


def _action(text: str) -> Action:
    from modelvault.access import Action

    for known in get_args(Action):
        if known == text:
            found: Action = known
            return found
    raise InvalidRequest(
        "bad_action", f"there is no action {text!r}", f"actions: {', '.join(get_args(Action))}"
    )


def _subject(sub: str | None, groups: tuple[str, ...]) -> Principal | None:
    """Somebody of the local issuer, as a token minted now would make them."""
    from modelvault.access import Principal
    from modelvault.clock import utc_ms

    if sub is None:
        if groups:
            raise InvalidRequest("usage", "--group needs --sub", "say whose groups they are")
        return None
    now = utc_ms()
    return Principal(
        id=_local(sub),
        issuer="local",
        groups=tuple(_local(name) for name in groups),
        claims={},
        issued_at=now,
        expires_at=now + 900_000,
    )


def _local(name: str) -> str:
    """As the policy writes it: with the issuer in front, whichever way it was given."""
    return f"local:{name.removeprefix('local:')}"


def _explained(answer: Explanation) -> list[str]:
    import msgspec

    from modelvault_cli.output import fields

    standing = msgspec.structs.asdict(answer.obligations)
    return fields(
        {
            "decision": "allowed" if answer.allowed else "denied",
            "reasons": ", ".join(answer.reasons),
            "obligations": ", ".join(
                f"{name} {value}" for name, value in standing.items() if value not in (None, False)
            ),
            "revision": answer.revision,
            "decision id": answer.decision_id,
        }
    )


@command(
    "publish",
    "modelvault policy publish --dry-run",
    "modelvault policy publish --yes",
    "modelvault policy publish ./policies --broker https://vault.example",
)
@click.argument("folder", type=NAMED_PATH, required=False)
@arguments.yes
@arguments.dry_run
@pass_globals
def publish(options: Globals, folder: Path | None, yes: bool, dry_run: bool) -> None:
    """Put the edited policies into force.

    From then on only their decisions count. They must evaluate, and must still let you publish
    policies. Without FOLDER they are those of the home. A broker signs and keeps what lies in
    FOLDER (`modelvault policy fetch` makes one).
    """
    from modelvault import wiring
    from modelvault_cli.documents import Published
    from modelvault_cli.output import confirm, emit

    bundle = wiring.policy_edited(
        folder, options.broker, home=options.home, profile=options.profile
    ).working()
    if dry_run:
        revision = bundle.revision
        emit(options, Published(dry_run=True, revision=revision), [f"would publish {revision}"])
        return
    confirm("Put the edited policies into force?", yes=yes)
    with options.session() as session:
        if folder is None:
            revision = session.publish_policy()
        else:
            revision = session.keep_policy(wiring.policy_document(bundle))
            session.enforce_policy(revision)
    emit(options, Published(dry_run=False, revision=revision), [f"in force: {revision}"])


def _commands() -> tuple[click.Command, ...]:
    from modelvault_cli.commands import kept

    return test, check, explain, publish, kept.revisions, kept.fetch, kept.diff, kept.rollback


for _command in _commands():
    policy.add_command(_command)
