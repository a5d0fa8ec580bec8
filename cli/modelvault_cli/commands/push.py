"""`push`: a file or a folder becomes the next version of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelvault.errors import InvalidRequest
from modelvault_cli.commands import arguments, plan
from modelvault_cli.frame import TYPED_PATH, Globals, command, pass_globals

if TYPE_CHECKING:
    from modelvault.client.publishing import Inspection, Pushed
    from modelvault.client.session import Session
    from modelvault.manifest import Provenance
    from modelvault_cli.documents import Push


@command(
    "push",
    "modelvault push ./minilm minilm:prod",
    "modelvault push ./minilm minilm --label team=search --source-commit 9f3c1e2",
    "modelvault push ./adapter adapter --base llama:prod",
    "modelvault push ./minilm minilm --dry-run",
)
@click.argument("path", type=TYPED_PATH)
@arguments.reference
@click.option(
    "--label", "labels", type=arguments.pair, multiple=True, metavar="NAME=VALUE", help="A label."
)
@click.option(
    "--base", type=arguments.reference_of, metavar="NAME",
    help="Provenance: the model that this one was made from; with :tag or @version a model of this "
    "vault, whose digest is looked up.",
)  # fmt: skip
@click.option("--base-digest", metavar="DIGEST", help="Provenance: its digest, sha256:….")
@click.option("--training-run", metavar="ID", help="Provenance: the training run.")
@click.option("--source-commit", metavar="ID", help="Provenance: the commit of the code.")
@click.option(
    "--public-metadata", is_flag=True,
    help="Let names, dtypes and shapes of tensors be read without a key.",
)  # fmt: skip
@click.option(
    "--follow-links", is_flag=True,
    help="Take files that links outside the folder point to, as in Hugging Face caches.",
)  # fmt: skip
@click.option(
    "--upload-all", is_flag=True,
    help="Upload unchanged files too, taking nothing from earlier versions.",
)  # fmt: skip
@arguments.dry_run
@pass_globals
def push(
    options: Globals,
    path: str,
    reference: str,
    labels: tuple[tuple[str, str], ...],
    base: str | None,
    base_digest: str | None,
    training_run: str | None,
    source_commit: str | None,
    public_metadata: bool,
    follow_links: bool,
    upload_all: bool,
    dry_run: bool,
) -> None:
    """Encrypt a file or a folder and put it in the vault as the model's next version.

    A tag in the reference is moved to the new version. Nothing is visible before the version stands
    whole, and the plaintext stays where it is. Files that are as they were in the newest version
    that you pushed are not uploaded again: the new version refers to them.
    """
    from msgspec.structs import replace

    from modelvault.clock import boot_ms
    from modelvault_cli.output import emit, progress

    provenance = _provenance(base, base_digest, training_run, source_commit)
    with options.session() as session:
        provenance = _with_digest(session, provenance)
        found = _inspect(session, path, reference, follow_links)
        _tell(found)
        if dry_run:
            reasons = plan.allowed(session, "push", reference)
            planned = _document(reference, found, None, 0)
            emit(options, planned, [f"would push it (allowed: {', '.join(reasons)})"])
            return
        start = boot_ms()
        with progress(f"encrypting {reference}") as advance:
            pushed = session.push(
                path,
                reference,
                labels=dict(labels),
                provenance=provenance,
                public_metadata=public_metadata,
                follow_links=follow_links,
                upload_all=upload_all,
                progress=advance,
            )
        told = replace(pushed.found, unsound=found.unsound)
        document = _document(reference, told, pushed, boot_ms() - start)
    emit(options, document, _lines(document))


def _inspect(session: Session, path: str, reference: str, follow_links: bool) -> Inspection:
    try:
        return session.inspect(path, follow_links=follow_links)
    except InvalidRequest as error:
        if error.code == "no_such_path" and Path(reference).exists():
            raise InvalidRequest(
                error.code,
                f"{error.message}, but {reference} does",
                f"the path comes first: modelvault push {reference} {path}",
            ) from None
        raise


def _provenance(
    base: str | None, base_digest: str | None, training_run: str | None, source_commit: str | None
) -> Provenance:
    import msgspec

    from modelvault.manifest import Provenance

    given = {
        "base": base,
        "base_digest": base_digest,
        "training_run": training_run,
        "source_commit": source_commit,
    }
    try:
        return msgspec.convert(given, Provenance)
    except msgspec.ValidationError as error:
        raise InvalidRequest(
            "bad_provenance", f"provenance: {error}", "digests are written sha256:<64 hex>"
        ) from None


def _with_digest(session: Session, provenance: Provenance) -> Provenance:
    """The same, with the digest of a base that is a version or tag of this vault."""
    from msgspec.structs import replace

    base = provenance.base
    if base is None or provenance.base_digest is not None or not set(base) & {":", "@"}:
        return provenance
    found = session.based_on(base)
    return replace(provenance, base=found.base, base_digest=found.base_digest)


def _tell(found: Inspection) -> None:
    from modelvault_cli.output import counted, size, talk

    files = counted(len(found.paths), "file")
    talk(f"found {files}, {size(found.size)}: {', '.join(found.formats)}")
    shards = sum(path.endswith(".safetensors") for path in found.paths)
    if shards > 1:
        talk(f"{shards} safetensors shards")
    if found.skipped:
        talk(f"left out, hidden or caches by their names: {', '.join(found.skipped)}")
    for path in found.pickles:
        talk(f"warning: {path} is a pickle: loading it can run code; policies may refuse it")
    for fault in found.unsound:
        talk(f"warning: {fault}; engines won't load it")


def _document(reference: str, found: Inspection, pushed: Pushed | None, elapsed_ms: int) -> Push:
    from modelvault.reference import Reference
    from modelvault_cli.documents import Push

    named = Reference.parse(reference)
    return Push(
        dry_run=pushed is None,
        model=named.name,
        version=pushed.version if pushed else None,
        tag=named.tag,
        manifest=pushed.manifest if pushed else None,
        files=len(found.paths),
        size=found.size,
        formats=found.formats,
        pickles=found.pickles,
        skipped=found.skipped,
        unsound=found.unsound,
        unchanged=len(pushed.unchanged) if pushed else 0,
        unchanged_size=pushed.unchanged_size if pushed else 0,
        elapsed_ms=elapsed_ms,
    )


def _lines(document: Push) -> list[str]:
    from modelvault_cli.output import counted, fields, seconds, size

    rate = document.size * 1000 // max(document.elapsed_ms, 1)
    spared = {"unchanged": _unchanged(document)} if document.unchanged else {}
    return fields(
        {
            "pushed": f"{document.model}@{document.version}",
            "tag": document.tag or "",
            "manifest": document.manifest or "",
            "size": f"{size(document.size)} in {counted(document.files, 'file')}",
            **spared,
            "time": f"{seconds(document.elapsed_ms)}, {size(rate)}/s",
        }
    )


def _unchanged(document: Push) -> str:
    from modelvault_cli.output import counted, size

    files = counted(document.unchanged, "file")
    return f"{size(document.unchanged_size)} in {files}, not uploaded again"
