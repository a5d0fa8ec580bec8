"""The upload that a push puts its files into: a new one, or one that an earlier run left open."""

from __future__ import annotations

from collections.abc import Sequence

from modelvault import binding
from modelvault.client.content import Content
from modelvault.client.context import Context
from modelvault.client.journal import Journal
from modelvault.client.keys import OneTimeKey, PushKeys
from modelvault.errors import Conflict, NotFound
from modelvault.reference import Reference
from modelvault.upload import DeclaredFile, PushAsk, ResumeAsk, Upload


def begin(
    context: Context,
    contents: Sequence[Content],
    reference: Reference,
    journal: Journal | None,
) -> tuple[OneTimeKey, Upload]:
    """The upload, and the key that its keys are sealed to. Raises what the broker raises."""
    once = OneTimeKey()
    if journal is not None and journal.upload is not None:
        resumed = _resumed(context, once, journal.upload)
        if resumed is not None:
            return once, resumed
        once = OneTimeKey()
    declared = tuple(DeclaredFile(content.path, content.size) for content in contents)
    upload = declare(context, once, declared, reference)
    if journal is not None:
        journal.start(upload)
    return once, upload


def declare(
    context: Context,
    once: OneTimeKey,
    files: tuple[DeclaredFile, ...],
    reference: Reference,
    keys: tuple[str, ...] | None = None,
) -> Upload:
    """A new upload of these files, with the keys of all of them, or of `keys` alone."""
    ask = PushAsk(
        reference=str(reference),
        files=files,
        nonce=once.nonce,
        recipient=once.recipient,
        keys=keys,
    )
    return context.broker.open_version(context.credentials.caller(once.hash), ask)


def join(context: Context, once: OneTimeKey, upload: str, keys: tuple[str, ...]) -> Upload:
    """An upload of the same identity, with the keys of these files alone."""
    ask = ResumeAsk(nonce=once.nonce, recipient=once.recipient, keys=keys)
    return context.broker.resume(context.credentials.caller(once.hash), upload, ask)


def open_keys(
    vault: str, once: OneTimeKey, reference: Reference, upload: Upload, paths: Sequence[str]
) -> PushKeys:
    """The upload's keys of `paths`, which the caller wipes; the one-time key is gone afterwards."""
    info = binding.info(
        "push",
        vault,
        upload.id,
        reference.tenant,
        reference.model,
        0,
        None,
        "push",
        paths,
        once.recipient,
        once.nonce,
    )
    try:
        return once.open_push(upload.sealed, info, paths)
    finally:
        once.drop()


def _resumed(context: Context, once: OneTimeKey, upload: str) -> Upload | None:
    """The upload with its keys for this process; None where it can't be gone on with."""
    ask = ResumeAsk(nonce=once.nonce, recipient=once.recipient)
    try:
        return context.broker.resume(context.credentials.caller(once.hash), upload, ask)
    except (NotFound, Conflict):  # expired, given up, published, or another identity's
        return None
