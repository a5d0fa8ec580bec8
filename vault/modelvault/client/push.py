"""A push: declare, get keys, encrypt and put, commit, verify what the broker made of it."""

from __future__ import annotations

from collections.abc import Sequence

from modelvault.client.comparing import Kept, candidates, compare, keep
from modelvault.client.content import Content, total
from modelvault.client.context import Context
from modelvault.client.journal import Journal, open_journal
from modelvault.client.opening import begin, open_keys
from modelvault.client.progress import Progress, counter
from modelvault.client.publishing import (
    Claims,
    Inspection,
    Pushed,
    check_claims,
    check_pushable,
    draft,
    give_up,
    inspection,
    verify,
)
from modelvault.client.scan import Scan
from modelvault.client.tag import tag_new
from modelvault.client.upload import Sent, Uploader, unsound
from modelvault.errors import Unavailable
from modelvault.reference import Reference


def inspect(scanned: Scan) -> Inspection:
    """Tell what a push would take, from the first bytes of each file, and which files of weights
    engines wouldn't take, from their headers.

    Raises InvalidRequest (`unreadable`) and Conflict (`file_changed`).
    """
    sizes = _sizes(scanned.files)
    kinds = {}
    faults: list[str] = []
    for found in scanned.files:
        with found.open() as source:
            kinds[found.path] = kind = source.format()
            faults += unsound(found, source, kind, sizes)
    return inspection(kinds, sizes, scanned.skipped, tuple(faults))


def push(
    context: Context,
    contents: Sequence[Content],
    reference: Reference,
    *,
    claims: Claims,
    upload_all: bool,
    progress: Progress | None,
    skipped: tuple[str, ...] = (),
) -> Pushed:
    """Make the next version of a model out of `contents`; tag it where `reference` names a tag.

    `contents` are by path; `skipped` are the names that were left out of them.
    Files that are as they were in the newest version that the same identity pushed are not
    uploaded again, unless `upload_all`. Nothing is visible before the commit. Raises what Broker,
    store and contents raise, and IntegrityError when the broker's answer isn't what was pushed.
    """
    check_pushable(reference)
    check_claims(claims)
    journal = open_journal(context.journals, context.vault, reference, contents)
    once, upload = begin(context, contents, reference, journal)
    store = context.places.opened(upload.id, once.hash)
    sent: tuple[Sent, ...] = ()
    try:
        compared = () if upload_all else candidates(upload, contents, journal)
        count = counter(progress, total(contents) + total(compared))
        paths = [content.path for content in contents]
        keys = open_keys(context.vault, once, reference, upload, paths)
        try:
            same = compare(context, once.hash, upload, keys.contents, compared, count, journal)
            spared = {each.file.path for each in same}
            uploader = Uploader(
                upload, keys, store, public_metadata=claims.public_metadata, progress=count,
                journal=journal,
            )  # fmt: skip
            sent = uploader.send([content for content in contents if content.path not in spared])
        finally:
            keys.wipe()
        kept = keep(same, claims.public_metadata)
        by_path: dict[str, Sent | Kept] = {each.file.path: each for each in sent}
        by_path |= {each.file.path: each for each in kept}
        done = [by_path[content.path] for content in contents]
        kinds = {each.file.path: each.format for each in done}
        found = inspection(kinds, _sizes(contents), skipped)
        told = draft(done, found, claims)
        seen = context.pins.seen()
        published = context.broker.commit(context.credentials.caller(once.hash), upload.id, told)
    except BaseException as failure:
        if journal is None or not _may_go_on(failure):
            give_up(context, store, upload.id, once.hash, sent)
        _leave(journal, failure)
        raise
    if journal is not None:
        journal.remove()
    verified = verify(context, reference, published, upload, told, kept, seen)
    if reference.tag is not None:
        tag_new(context, verified, reference.tag)
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


def _sizes(contents: Sequence[Content]) -> dict[str, int]:
    return {content.path: content.size for content in contents}


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
