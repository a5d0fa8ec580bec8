"""An upload that was opened: whose it is, whether it still is open, and its keys, sealed."""

from __future__ import annotations

from modelvault import binding
from modelvault.access import Caller
from modelvault.broker.asked import Who
from modelvault.broker.gate import Gate
from modelvault.broker.parts import Parts
from modelvault.broker.sealing import seal_push_keys
from modelvault.catalog import UploadRow
from modelvault.clock import to_text
from modelvault.crypto.secret import Secret
from modelvault.errors import Conflict, InvalidRequest, NotFound
from modelvault.upload import PushAsk, ResumeAsk, Upload

# An import's row says so where an upload's names the hash of its pusher's key: no token is bound to
# such a key, and what was begun as one is never ended as the other.
IMPORT = "import:"


def check_import(row: UploadRow) -> None:
    """Raises Conflict (`not_an_import`)."""
    if not row.recipient.startswith(IMPORT):
        raise Conflict("not_an_import", "this upload was opened by a push", "commit it as one")


def check_push(row: UploadRow) -> None:
    """Raises Conflict (`is_an_import`)."""
    if row.recipient.startswith(IMPORT):
        raise Conflict("is_an_import", "this upload takes a copy in", "commit it as an import")


def own_upload(
    parts: Parts, gate: Gate, caller: Caller, action: str, upload: str, key_hash: str | None = None
) -> tuple[Who, UploadRow]:
    """The caller, and the upload that it opened.

    A key-bound token must be bound to one of the upload's recipient keys, or to `key_hash` where a
    request names another. Raises NotFound (`no_upload`), also for somebody else's.
    """
    row = _upload(parts, upload)
    bound = key_hash or (None if row is None else row.recipients)
    who = gate.authenticate(caller, action, bound)
    if row is None or row.subject != who.principal.id:
        raise NotFound(
            "no_upload",
            "there is no such upload, or somebody else opened it",
            "push again: an upload belongs to the identity that opened it",
        )
    return who, row


def check_open(row: UploadRow, who: Who) -> None:
    """Raises Conflict (`upload_closed`), also when it has expired."""
    if row.state != "open" or row.expires_at <= who.now:
        raise Conflict(
            "upload_closed",
            f"this upload was closed, or expired at {to_text(row.expires_at)}",
            "push again",
        )


def wanted(ask: PushAsk | ResumeAsk, paths: tuple[str, ...]) -> tuple[str, ...]:
    """Which of an upload's paths an ask wants the keys of, in the order of their keys.

    Raises InvalidRequest (`not_as_declared`).
    """
    if ask.keys is None:
        return paths
    if len(set(ask.keys)) != len(ask.keys) or not set(paths).issuperset(ask.keys):
        raise InvalidRequest(
            "not_as_declared",
            "keys are wanted of a file that wasn't declared, or of one twice",
            "name files of this upload, each once",
        )
    return ask.keys


def answer(
    parts: Parts,
    row: UploadRow,
    dek: Secret,
    content: Secret,
    candidates: tuple[str, ...],
    ask: PushAsk | ResumeAsk,
) -> Upload:
    """What the asker gets: the keys of the paths that it wants, for its recipient."""
    paths = wanted(ask, row.paths)
    info = binding.info(
        "push",
        parts.vault,
        row.id,
        row.tenant,
        row.model,
        0,
        None,
        "push",
        paths,
        ask.recipient,
        ask.nonce,
    )
    return Upload(
        id=row.id,
        tenant=row.tenant,
        model=row.model,
        artifact=row.artifact,
        segment_length=parts.segment_length,
        digest_alg=parts.digest_alg,
        expires_at=to_text(row.expires_at),
        sealed=seal_push_keys(row.artifact, paths, dek, content, ask.recipient, info),
        candidates=candidates,
    )


def _upload(parts: Parts, upload: str) -> UploadRow | None:
    try:
        return parts.ledger.upload(upload)
    except NotFound:
        return None
