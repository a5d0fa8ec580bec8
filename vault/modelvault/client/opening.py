"""The upload that a push puts its files into: a new one, or one that an earlier run left open."""

from __future__ import annotations

from collections.abc import Sequence

from modelvault import binding
from modelvault.client.context import Context
from modelvault.client.journal import Journal
from modelvault.client.keys import OneTimeKey, PushKeys
from modelvault.client.scan import Found, Scan
from modelvault.errors import Conflict, NotFound
from modelvault.reference import Reference
from modelvault.upload import DeclaredFile, PushAsk, ResumeAsk, Upload


def begin(
    context: Context, scanned: Scan, reference: Reference, journal: Journal | None
) -> tuple[OneTimeKey, Upload]:
    """The upload, and the key that its keys are sealed to. Raises what the broker raises."""
    once = OneTimeKey()
    if journal is not None and journal.upload is not None:
        resumed = _resumed(context, once, journal.upload)
        if resumed is not None:
            return once, resumed
        once = OneTimeKey()
    ask = PushAsk(
        reference=str(reference),
        files=tuple(DeclaredFile(found.path, found.size) for found in scanned.files),
        nonce=once.nonce,
        recipient=once.recipient,
    )
    upload = context.broker.open_version(context.credentials.caller(once.hash), ask)
    if journal is not None:
        journal.start(upload)
    return once, upload


def open_keys(
    vault: str, once: OneTimeKey, reference: Reference, upload: Upload, files: Sequence[Found]
) -> PushKeys:
    """The upload's keys, which the caller wipes; the one-time key is gone afterwards."""
    paths = [found.path for found in files]
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
