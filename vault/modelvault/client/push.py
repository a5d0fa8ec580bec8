"""A push: declare, get keys, encrypt and put, commit, verify what the broker made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec

from modelvault.artifact import trust as trusting
from modelvault.artifact.trust import Seen, Verified
from modelvault.client.comparing import Kept, candidates, compare, keep
from modelvault.client.context import Context
from modelvault.client.journal import Journal, open_journal
from modelvault.client.opening import begin, open_keys
from modelvault.client.progress import Progress, counter
from modelvault.client.scan import Scan
from modelvault.client.source import Source
from modelvault.client.tag import exact, move_tag
from modelvault.client.upload import Sent, Uploader
from modelvault.errors import (
    IntegrityError,
    InvalidRequest,
    ModelVaultError,
    Unavailable,
)
from modelvault.manifest import Hints, Provenance
from modelvault.ports.objects import UploadStore
from modelvault.reference import Reference
from modelvault.upload import Draft, Published, Upload
from modelvault.weights.sniff import is_pickle


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """What lies under a path: files and plaintext bytes, formats and pickles found, and the names
    that a push leaves out because they are hidden."""

    paths: tuple[str, ...]
    size: int
    formats: tuple[str, ...]
    pickles: tuple[str, ...]
    skipped: tuple[str, ...]


class Pushed(msgspec.Struct, frozen=True, kw_only=True):
    """A version that stands: what was found, what it is called, and its manifest's digest.

    `unchanged` are the files that were not uploaded, `unchanged_size` bytes together."""

    tenant: str
    model: str
    version: int
    manifest: str
    tag: str | None
    found: Inspection
    unchanged: tuple[str, ...]
    unchanged_size: int
    published: Published


def inspect(scanned: Scan) -> Inspection:
    """Tell what a push would take, from the first bytes of each file.

    Raises InvalidRequest (`unreadable`) and Conflict (`file_changed`).
    """
    kinds = {}
    for found in scanned.files:
        with Source(found) as source:
            kinds[found.path] = source.format()
    return _inspection(scanned, kinds)


def push(
    context: Context,
    scanned: Scan,
    reference: Reference,
    *,
    labels: Mapping[str, str],
    provenance: Provenance,
    public_metadata: bool,
    upload_all: bool,
    progress: Progress | None,
) -> Pushed:
    """Make the next version of a model out of `scanned`; tag it where `reference` names a tag.

    Files that are as they were in the newest version that the same identity pushed are not
    uploaded again, unless `upload_all`. Nothing is visible before the commit. Raises what Broker,
    store and files raise, and IntegrityError when the broker's answer isn't what was pushed.
    """
    if reference.version is not None or reference.digest is not None:
        raise InvalidRequest(
            "bad_reference",
            f"{reference} names a version; the vault numbers versions itself",
            f"push to {reference.name} or {reference.name}:<tag>",
        )
    journal = open_journal(context.journals, context.vault, reference, scanned.files)
    once, upload = begin(context, scanned, reference, journal)
    store = context.places.opened(upload.id, once.hash)
    sent: tuple[Sent, ...] = ()
    try:
        compared = () if upload_all else candidates(upload, scanned.files, journal)
        count = counter(progress, scanned.size + sum(found.size for found in compared))
        keys = open_keys(context.vault, once, reference, upload, scanned.files)
        try:
            same = compare(context, once.hash, upload, keys.contents, compared, count, journal)
            spared = {each.file.path for each in same}
            uploader = Uploader(
                upload, keys, store, public_metadata=public_metadata, progress=count,
                journal=journal,
            )  # fmt: skip
            sent = uploader.send([found for found in scanned.files if found.path not in spared])
        finally:
            keys.wipe()
        kept = keep(same, public_metadata)
        found, draft = _drafted(scanned, sent, kept, labels, provenance, public_metadata)
        seen = context.pins.seen()
        published = context.broker.commit(context.credentials.caller(once.hash), upload.id, draft)
    except BaseException as failure:
        if journal is None or not _may_go_on(failure):
            _give_up(context, store, upload, once.hash, sent)
        _leave(journal, failure)
        raise
    if journal is not None:
        journal.remove()
    verified = _verify(context, reference, published, upload, draft, kept, seen)
    if reference.tag is not None:
        move_tag(context, exact(verified), reference.tag)
    return Pushed(
        tenant=reference.tenant,
        model=reference.model,
        version=verified.manifest.version,
        manifest=verified.digest,
        tag=reference.tag,
        found=found,
        unchanged=tuple(each.file.path for each in kept),
        unchanged_size=sum(each.entry.size for each in kept),
        published=published,
    )


def _drafted(
    scanned: Scan,
    sent: Sequence[Sent],
    kept: Sequence[Kept],
    labels: Mapping[str, str],
    provenance: Provenance,
    public_metadata: bool,
) -> tuple[Inspection, Draft]:
    """What was found, and what the broker is told of it."""
    by_path: dict[str, Sent | Kept] = {each.file.path: each for each in sent}
    by_path |= {each.file.path: each for each in kept}
    done = [by_path[found.path] for found in scanned.files]
    inspection = _inspection(scanned, {each.file.path: each.format for each in done})
    draft = Draft(
        files=tuple(each.file for each in sent),
        unchanged=tuple(each.file for each in kept),
        hints=Hints(formats=inspection.formats, pickles=inspection.pickles),
        labels=dict(labels),
        provenance=provenance,
        tensors=tuple(t for each in done for t in each.tensors) if public_metadata else None,
    )
    return inspection, draft


def _may_go_on(failure: BaseException) -> bool:
    """Whether the same push may succeed later: an outage, or somebody pressed Ctrl-C."""
    return isinstance(failure, (Unavailable, KeyboardInterrupt, SystemExit))


def _leave(journal: Journal | None, failure: BaseException) -> None:
    if journal is None:
        return
    if _may_go_on(failure):
        journal.close()
    else:
        journal.remove()


def _give_up(
    context: Context, store: UploadStore, upload: Upload, key_hash: str, sent: Sequence[Sent]
) -> None:
    """Free the upload, then delete what was put.

    A commit that didn't answer may have been done: only when the broker has said that none can be
    any more does anything go. Without that word, what is left is gc's once the upload expires.
    """
    with suppress(ModelVaultError):
        context.broker.abandon(context.credentials.caller(key_hash), upload.id)
        for each in sent:
            store.delete(each.file.object)
            store.delete(each.file.leaves)


def _verify(
    context: Context,
    reference: Reference,
    published: Published,
    upload: Upload,
    draft: Draft,
    kept: Sequence[Kept],
    seen: Seen,
) -> Verified:
    """The published version is signed, new, and holds just what was put, and what the broker had
    said to be unchanged."""
    named = Reference(reference.tenant, reference.model, version=published.version)
    verified = trusting.verify(published.signed, named, context.trust, seen)
    made = {
        (file.artifact, file.path, file.size, file.object, file.leaves, file.digest)
        for file in verified.manifest.files
    }
    put = {
        (upload.artifact, file.path, file.size, file.object, file.leaves, file.digest)
        for file in draft.files
    } | {
        (file.artifact, file.path, file.size, file.object, file.leaves, file.digest)
        for file in (each.entry for each in kept)
    }
    if made != put or verified.digest != published.manifest:
        raise IntegrityError(
            "not_what_was_pushed",
            f"{named} was published with other files than were pushed",
            "don't use this version: ask who runs the vault",
        )
    context.pins.remember(verified.seen)
    return verified


def _inspection(scanned: Scan, kinds: Mapping[str, str]) -> Inspection:
    return Inspection(
        paths=tuple(found.path for found in scanned.files),
        size=scanned.size,
        formats=tuple(sorted(set(kinds.values()))),
        pickles=tuple(path for path, kind in kinds.items() if is_pickle(kind)),
        skipped=scanned.skipped,
    )
