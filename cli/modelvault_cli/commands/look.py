"""`list` and `show`: what the vault holds, as far as the caller may see it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from modelvault_cli.commands import arguments
from modelvault_cli.frame import Globals, command, pass_globals

if TYPE_CHECKING:
    from modelvault.lease import ModelDetail, VersionSummary
    from modelvault.manifest import CopiedFrom, TensorEntry
    from modelvault_cli.documents import Show, Shown


@command(
    "list",
    "modelvault list",
    "modelvault list --filter 'mini*' --limit 20",
    "modelvault list --after minilm --json",
)
@click.option("--filter", "pattern", default="", metavar="PATTERN", help="Shell-style, on names.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@click.option("--after", default="", metavar="NAME", help="Go on behind this name.")
@click.option("--tenant", default="default", show_default=True, metavar="NAME")
@pass_globals
def list_models(options: Globals, pattern: str, limit: int, after: str, tenant: str) -> None:
    """List the models that you may see, by name."""
    from modelvault_cli.documents import Listing
    from modelvault_cli.output import emit, size, table, talk

    with options.session() as session:
        models = session.list(tenant=tenant, filter=pattern, limit=limit, after=after)
    following = models[-1].model if len(models) == limit else None
    rows = (
        (
            one.model,
            str(one.latest or "-"),
            ", ".join(f"{tag.tag}→{tag.version}" for tag in one.tags),
            one.classification,
            one.owner,
            size(one.size),
        )
        for one in models
    )
    lines = table(("MODEL", "LATEST", "TAGS", "CLASSIFICATION", "OWNER", "SIZE"), rows)
    emit(options, Listing(models=models, next=following), lines)
    if not models and not options.json:
        talk("no models")
    if following is not None and not options.json:
        talk(f"there may be more: --after {following}")


@command("show", "modelvault show minilm:prod", "modelvault show minilm@3 --json")
@arguments.reference
@pass_globals
def show(options: Globals, reference: str) -> None:
    """Show a model, its versions and tags, and the version that the reference means.

    What is shown of that version stands in its signed manifest, which is verified first.
    """
    from modelvault_cli.documents import Show
    from modelvault_cli.output import emit

    with options.session() as session:
        detail = session.show(reference)
    document = Show(
        model=detail.summary,
        versions=detail.versions,
        selected=_selected(detail),
    )
    emit(options, document, _lines(document))


def _selected(detail: ModelDetail) -> Shown | None:
    from modelvault.manifest import Manifest
    from modelvault_cli.documents import FileSize, Shown

    if detail.signed is None:
        return None
    envelope = detail.signed.manifest
    manifest = Manifest.from_bytes(envelope.payload)
    return Shown(
        version=manifest.version,
        manifest=envelope.digest,
        previous=manifest.previous,
        created_at=manifest.created_at,
        created_by=manifest.created_by,
        digest_alg=manifest.digest_alg,
        files=tuple(FileSize(file.path, file.size) for file in manifest.files),
        size=manifest.size,
        hints=manifest.hints,
        labels=manifest.labels,
        provenance=manifest.provenance,
        tensors=None if manifest.tensors is None else len(manifest.tensors),
        dtypes=None if manifest.tensors is None else _dtypes(manifest.tensors),
    )


def _dtypes(tensors: Iterable[TensorEntry]) -> dict[str, int]:
    held: dict[str, int] = {}
    for tensor in tensors:
        held[tensor.dtype] = held.get(tensor.dtype, 0) + tensor.bytes
    return held


def _lines(document: Show) -> list[str]:
    from modelvault_cli.output import fields, size, table

    model = document.model
    lines = fields(
        {
            "model": model.model,
            "tenant": model.tenant,
            "owner": model.owner,
            "classification": model.classification,
            "created": model.created_at,
            "tags": ", ".join(f"{tag.tag}→{tag.version}" for tag in model.tags),
        }
    )
    rows = (
        (
            str(one.version),
            one.created_at,
            one.created_by,
            size(one.size),
            str(one.files),
            str(one.kek_version or "-"),
            _state(one),
            one.manifest[:19] + "…",
        )
        for one in document.versions
    )
    header = ("VERSION", "CREATED", "BY", "SIZE", "FILES", "KEY", "STATE", "MANIFEST")
    versions = table(header, rows)
    selected = _selected_lines(document.selected) if document.selected else []
    return [*lines, *([""] if versions else []), *versions, *selected]


def _state(version: VersionSummary) -> str:
    told = {"hidden": version.hidden_at, "revoked": version.revoked_at}
    return ", ".join(state for state, at in told.items() if at)


def _selected_lines(shown: Shown) -> list[str]:
    from modelvault_cli.output import fields, size, table

    made = shown.provenance
    facts = fields(
        {
            "version": str(shown.version),
            "manifest": shown.manifest,
            "previous": shown.previous or "",
            "digests": shown.digest_alg,
            "formats": ", ".join(shown.hints.formats),
            "pickles": ", ".join(shown.hints.pickles),
            "labels": ", ".join(f"{name}={value}" for name, value in shown.labels.items()),
            "base": " ".join(filter(None, (made.base, made.base_digest))),
            "training run": made.training_run or "",
            "source commit": made.source_commit or "",
            "copied from": _origin(made.copied_from),
            "tensors": _tensors(shown),
        }
    )
    files = table(("FILE", "SIZE"), ((file.path, size(file.size)) for file in shown.files))
    return ["", *facts, "", *files]


def _tensors(shown: Shown) -> str:
    from modelvault_cli.output import size

    held = sorted((shown.dtypes or {}).items(), key=lambda one: -one[1])
    kinds = ", ".join(f"{size(count)} {dtype}" for dtype, count in held)
    return f"{shown.tensors}: {kinds}" if shown.tensors else ""


def _origin(source: CopiedFrom | None) -> str:
    from modelvault.reference import Reference

    if source is None:
        return ""
    return f"{Reference(source.tenant, source.model).name}@{source.version} of vault {source.vault}"
