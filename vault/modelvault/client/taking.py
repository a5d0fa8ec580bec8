"""A version that comes in a folder, by hand, from a vault that can't be reached from here."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from modelvault import canonical
from modelvault.artifact import trust as trusting
from modelvault.artifact.trust import Seen
from modelvault.client.carrying import Carrying, open_carrying
from modelvault.client.context import Context
from modelvault.client.copied import (
    Copied,
    Source,
    check_invitation,
    check_published,
    check_standing,
)
from modelvault.client.export import KEYS
from modelvault.client.pins import read_trust
from modelvault.client.progress import Progress, counter
from modelvault.client.tag import move_tag
from modelvault.client.transfer import transfer
from modelvault.copies import Carried, HandedOver, ImportAsk, ImportDraft, Importing
from modelvault.crypto.dsse import Envelope
from modelvault.errors import IntegrityError, InvalidRequest, NotFound, Unavailable
from modelvault.manifest import MAX_BYTES, Manifest
from modelvault.ports.objects import check_name, piecewise
from modelvault.record import MAX_RECORD, SignedVersion
from modelvault.reference import Reference

_MAX_DOCUMENT = 2 * MAX_BYTES
_MAX_KEYS = 4 << 20


def invite(receiver: Context, target: Reference) -> Importing:
    """Begin an import whose version comes later, by hand; the invitation that the giver needs.

    Raises what Broker raises, and IntegrityError as `copied.check_invitation`.
    """
    ask = ImportAsk(reference=str(target))
    importing = receiver.broker.open_import(receiver.credentials.caller(), ask)
    check_invitation(receiver.trust, importing, target)
    return importing


def take_in(
    receiver: Context, folder: Path, target: Reference, *, progress: Progress | None = None
) -> Copied:
    """Bring in what `pull` has put into `folder` for an invitation of this vault.

    All in it is checked: here against its own manifest, by the broker against the giver's pinned
    trust file. Doing it again finds what stands; one that was cut off goes on. Raises NotFound
    (`no_import_folder`), InvalidRequest (`not_invited`, `other_model`) and as `copy`.
    """
    source, carried = _read(folder)
    importing = carried.importing
    if (importing.tenant, importing.model) != (target.tenant, target.model):
        raise InvalidRequest(
            "other_model",
            f"the keys in {folder} are for {importing.tenant}/{importing.model}",
            "import it there, or invite to this model and pull again",
        )
    journal = open_carrying(receiver.journals, source.verified.digest, str(target))
    if journal is not None and journal.importing != importing:
        journal.start(importing)
    try:
        copied = _taken(receiver, folder, source, carried.handed, target, progress, journal)
    except BaseException as failure:
        if journal is not None:
            may_go_on = isinstance(failure, (Unavailable, KeyboardInterrupt, SystemExit))
            journal.close() if may_go_on else journal.remove()
        raise
    if journal is not None:
        journal.remove()
    if target.tag is not None:
        place = Reference(copied.tenant, copied.model, version=copied.version)
        move_tag(receiver, place, target.tag)
    return copied


def _taken(
    receiver: Context,
    folder: Path,
    source: Source,
    handed: HandedOver,
    target: Reference,
    progress: Progress | None,
    journal: Carrying | None,
) -> Copied:
    draft = ImportDraft(source=source.signed, sealed=handed.sealed, files=())
    try:  # what wouldn't be taken is told before anything is carried; and what stands already
        caller = receiver.credentials.caller()
        published = receiver.broker.commit_import(caller, handed.upload, draft)
        return check_standing(receiver, source, target, published)
    except InvalidRequest as missing:
        if missing.code != "files_missing":
            raise
    store = receiver.places.opened(handed.upload, None)
    count = counter(progress, source.manifest.size)
    put = transfer(_Folder(folder), store, source.manifest, count, journal)
    draft = msgspec.structs.replace(draft, files=put)
    caller = receiver.credentials.caller()
    published = receiver.broker.commit_import(caller, handed.upload, draft)
    return check_published(receiver, source, target, published, put)


def _read(folder: Path) -> tuple[Source, Carried]:
    """The folder's documents: by its own trust file, which only shows that it is whole."""
    signed = SignedVersion(
        model=_envelope(folder / "model.json", 2 * MAX_RECORD),
        manifest=_envelope(folder / "manifest.json", _MAX_DOCUMENT),
    )
    if not (folder / KEYS).exists():
        raise InvalidRequest(
            "not_invited",
            f"{folder} holds no keys for this vault",
            "invite here (`modelvault invite`), and pull there with --for and that file",
        )
    keys = canonical.decode(
        _bytes(folder / KEYS, _MAX_KEYS), Carried, limit=_MAX_KEYS, what=str(folder / KEYS)
    )
    claimed = Manifest.from_bytes(signed.manifest.payload)
    named = Reference(claimed.tenant, claimed.model, version=claimed.version)
    verified = trusting.verify(signed, named, read_trust(folder / "trust.json"), Seen())
    if (keys.handed.upload, keys.handed.manifest) != (keys.importing.id, verified.digest):
        raise IntegrityError(
            "wrong_version",
            f"the keys in {folder} are of another version than its manifest",
            "pull again, into a new folder",
        )
    return Source(signed, verified), keys


def _envelope(path: Path, limit: int) -> Envelope:
    return Envelope.from_bytes(_bytes(path, limit), limit=limit, what=str(path))


def _bytes(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise NotFound(
            "no_import_folder",
            f"can't read {path}: {os.strerror(error.errno or 0)}",
            "name a folder that `modelvault pull` has made",
        ) from None


class _Folder:
    """`ports.objects.ObjectReader` over a folder that was pulled."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def size(self, name: str) -> int:
        """See `ObjectReader`."""
        try:
            return (self._folder / check_name(name)).stat().st_size
        except OSError:
            raise _missing(name) from None

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """See `ObjectReader`."""
        path = self._folder / check_name(name)
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(offset)
                done = 0
                while done < len(buffer):
                    count = file.readinto(buffer[done:])
                    if not count:
                        raise IntegrityError("truncated", f"{path} ends too early", "pull it again")
                    done += count
        except OSError:
            raise _missing(name) from None

    def stream(
        self,
        name: str,
        offset: int,
        size: int,  # noqa: ARG002  as the port says
    ) -> AbstractContextManager[Callable[[memoryview], None]]:
        """See `ObjectReader`."""
        return piecewise(self, name, offset)


def _missing(name: str) -> NotFound:
    return NotFound("no_object", f"the folder has no {name}", "pull it again, into a new folder")
