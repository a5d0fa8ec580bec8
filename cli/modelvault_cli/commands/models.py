"""`create`, `classify`, `tag` and `delete`: an admin's or owner's hand on a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from modelvault.errors import Conflict, InvalidRequest, ModelVaultError, NotFound
from modelvault_cli.commands import arguments, plan
from modelvault_cli.frame import Globals, command, pass_globals

if TYPE_CHECKING:
    from modelvault.client.session import Session
    from modelvault.lease import ModelSummary

_DEFAULT = "internal"  # the classification of who names none
_owner = click.option("--owner", metavar="ID", help="Whom to ask: a principal or a group.")


@command(
    "create",
    "modelvault create minilm",
    "modelvault create search/minilm --classification restricted --owner local:search-team",
)
@arguments.reference
@_owner
@click.option(
    "--classification", "-c", metavar="NAME",
    help=f"How far it may go; policies decide by it.  [default: {_DEFAULT}]",
)  # fmt: skip
@arguments.dry_run
@pass_globals
def create(
    options: Globals, reference: str, owner: str | None, classification: str | None, dry_run: bool
) -> None:
    """Create a model, without a version yet: its signed record, and its key in the key service.

    Of a classification that is named the policy is asked whether it knows it, which stands in the
    audit log as `explain`; a warning says where it doesn't.
    """
    chosen = _DEFAULT if classification is None else classification
    with options.session() as session:
        if dry_run:
            _must_be_new(session, reference)
            plan.tell(options, "create", reference, f"create {reference}, {chosen}")
            return
        model = session.create(reference, owner=owner, classification=chosen)
        if classification is not None:  # it may be mistyped
            _warn_of_unknown(session, model)
    _report(options, model, "created")


@command(
    "classify",
    "modelvault classify minilm --classification restricted",
    "modelvault classify minilm --owner local:search-team",
)
@arguments.reference
@_owner
@click.option("--classification", "-c", metavar="NAME", help="The new classification.")
@arguments.dry_run
@pass_globals
def classify(
    options: Globals,
    reference: str,
    owner: str | None,
    classification: str | None,
    dry_run: bool,
) -> None:
    """Change a model's classification or its owner.

    Of a new classification the policy is asked whether it knows it, as by `modelvault create`.
    """
    if owner is None and classification is None:
        raise InvalidRequest(
            "usage", "nothing to change", "give --classification, --owner, or both"
        )
    with options.session() as session:
        if dry_run:
            effect = f"set {classification or ''} {owner or ''}".strip()
            plan.plan(options, session, "classify", reference, effect)
            return
        model = session.classify(reference, owner=owner, classification=classification)
        if classification is not None:
            _warn_of_unknown(session, model)
    _report(options, model, "classified")


@command(
    "tag",
    "modelvault tag minilm@3 prod",
    "modelvault tag minilm@2 prod   # back again",
)
@arguments.reference
@click.argument("tag")
@arguments.dry_run
@pass_globals
def tag(options: Globals, reference: str, tag: str, dry_run: bool) -> None:
    """Make TAG mean the version that REFERENCE means now; also backwards."""
    from modelvault_cli.documents import Tagged
    from modelvault_cli.output import emit

    with options.session() as session:
        if dry_run:
            plan.plan(options, session, "tag", reference, f"make {tag} mean {reference}")
            return
        verified = session.tag(reference, tag)
    manifest, record = verified.manifest, verified.tag
    document = Tagged(
        model=_name(manifest.tenant, manifest.model),
        tag=tag,
        version=manifest.version,
        manifest=verified.digest,
        serial=record.serial if record else 0,
    )
    emit(options, document, [f"{document.model}:{tag} is now version {document.version}"])


@command(
    "delete",
    "modelvault delete minilm@2",
    "modelvault delete minilm --yes",
)
@arguments.reference
@arguments.yes
@arguments.dry_run
@pass_globals
def delete(options: Globals, reference: str, yes: bool, dry_run: bool) -> None:
    """Hide a version (name@7), or a model with all its versions (name), from loads.

    `modelvault gc` removes what was hidden long enough. A version that a tag means can't be hidden.
    """
    from modelvault_cli.documents import Deleted
    from modelvault_cli.output import confirm, emit

    with options.session() as session:
        if dry_run:
            plan.plan(options, session, "delete", reference, f"hide {reference}")
            return
        confirm(f"Hide {reference} from all loads?", yes=yes)
        session.delete(reference)
    emit(options, Deleted(target=reference), [f"{reference} is hidden"])


def _must_be_new(session: Session, reference: str) -> None:
    try:
        session.show(reference)
    except NotFound:
        return
    raise Conflict("model_exists", f"{reference} exists already", "see `modelvault show`")


def _warn_of_unknown(session: Session, model: ModelSummary) -> None:
    """Say that the policy has no such classification: then it gives nobody the keys.

    The policy is asked after the fact, and advises: what was done stands whatever it answers.
    """
    from modelvault_cli.output import talk

    name = _name(model.tenant, model.model)
    try:
        reasons = session.explain("load", name).reasons
    except ModelVaultError:  # one may change a model and not be allowed to see it
        return
    if "unknown_classification" in reasons:
        talk(
            f"warning: the policy has no classification {model.classification!r}: no load of {name}"
            f" is allowed until its data.json names it, or `modelvault classify {name} -c NAME`"
        )


def _report(options: Globals, model: ModelSummary, done: str) -> None:
    from modelvault_cli.documents import Model
    from modelvault_cli.output import emit

    name = _name(model.tenant, model.model)
    line = f"{done} {name}: {model.classification}, owner {model.owner}"
    emit(options, Model(model=model), [line])


def _name(tenant: str, model: str) -> str:
    from modelvault.reference import Reference

    return Reference(tenant, model).name
