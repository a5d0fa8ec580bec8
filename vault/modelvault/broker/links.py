"""Links to objects, for clients that have no account at the store; and uploads that go on.

Weights never pass through the broker: it signs URLs, each for one request on one object. Which
objects, the ledger and the signed manifest say, never the caller: names of new objects are derived
from the upload, and only objects of granted files can be read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from modelvault.access import Caller
from modelvault.broker.asked import Authorised, entry
from modelvault.broker.comparing import Comparer
from modelvault.broker.contentkey import content_key
from modelvault.broker.gate import Gate
from modelvault.broker.opened import answer, check_open, check_push, own_upload, wanted
from modelvault.broker.parts import Parts
from modelvault.broker.renewal import Renewer
from modelvault.broker.sealing import check_recipient
from modelvault.broker.unwrapping import unwrapped
from modelvault.catalog import UploadRow
from modelvault.crypto import derive
from modelvault.errors import AccessDenied, InvalidRequest, NotFound, Unavailable
from modelvault.identity.binding import key_hash
from modelvault.lease import MAX_LINKS, Link, Links
from modelvault.manifest import FileEntry, object_names
from modelvault.ports.objects import PutPart, UrlSigner
from modelvault.reference import Reference
from modelvault.upload import PutAsk, Putting, ResumeAsk, Upload


class Linker:
    """`resume`, `put_links`, `put_done`, `lease_links`, `pull_links` of ports.broker.Broker.

    Thread-safe. `urls` is None where the store can't give links.
    """

    def __init__(
        self,
        parts: Parts,
        gate: Gate,
        renewer: Renewer,
        comparer: Comparer,
        urls: UrlSigner | None,
    ) -> None:
        self._parts = parts
        self._gate = gate
        self._comparer = comparer
        self._renewer = renewer
        self._urls = urls

    def resume(self, caller: Caller, upload: str, ask: ResumeAsk) -> Upload:
        """The same keys for a new recipient, once the policy has allowed the push anew.

        With `ask.keys` the recipient joins those that there are, and gets the keys of these paths.
        """
        hashed = key_hash(ask.recipient.suite, ask.recipient.public_key)
        who, row = own_upload(self._parts, self._gate, caller, "push", upload, hashed)
        check_push(row)
        check_open(row, who)
        check_recipient(ask.recipient)
        wanted(ask, row.paths)
        model = self._gate.records.model(Reference(row.tenant, row.model))
        asked = self._gate.authorise(who, "push", model.resource(row.paths, sum(row.sizes)))
        resumed = self._resumed(asked, row, ask, hashed)
        candidates = self._comparer.candidates(who, model, row)
        with (
            unwrapped(self._parts, row.tenant, row.model, [row.artifact]) as deks,
            content_key(self._parts, row.tenant, row.model) as content,
        ):
            return answer(self._parts, resumed, deks[row.artifact], content, candidates, ask)

    def _resumed(self, asked: Authorised, row: UploadRow, ask: ResumeAsk, hashed: str) -> UploadRow:
        """The upload with its new recipient in the place of the old one, or beside it."""
        ledger = self._parts.ledger
        until = asked.now + self._parts.terms.upload_ttl_s * 1000
        if ask.keys is None:
            told = entry(asked, "allowed", upload=row.id, step="resume")
            return ledger.resume(row.id, hashed, until, told)
        told = entry(asked, "allowed", upload=row.id, step="join", files=len(ask.keys))
        return ledger.join(row.id, hashed, self._parts.terms.max_ranks, until, told)

    def put_links(self, caller: Caller, upload: str, ask: PutAsk) -> Putting:
        """Links to put one object of an open upload."""
        urls = self._signer()
        row = self._open_upload(caller, upload)
        name = derive.object_name(row.id, ask.seed)
        ttl_s = self._parts.terms.link_ttl_s
        if len(ask.sizes) == 1:
            link = urls.upload(name, ask.sizes[0], ttl_s)
            return Putting(object=name, transfer=None, done=(), links=(link,), ttl_s=ttl_s)
        transfer = ask.transfer or urls.begin(name)
        done: tuple[int, ...] = ()
        if ask.transfer and not ask.parts:
            done = tuple(part.number for part in _fitting(urls, name, ask.transfer, ask.sizes))
        links = urls.upload_parts(name, transfer, _wanted(ask), ttl_s) if ask.parts else ()
        return Putting(object=name, transfer=transfer, done=done, links=links, ttl_s=ttl_s)

    def put_done(self, caller: Caller, upload: str, ask: PutAsk) -> None:
        """Make an object of its parts."""
        urls = self._signer()
        row = self._open_upload(caller, upload)
        if ask.transfer is None:
            raise InvalidRequest("bad_links", "an object put in one request is done", "commit it")
        urls.complete(derive.object_name(row.id, ask.seed), ask.transfer, ask.sizes)

    def lease_links(self, caller: Caller, lease: str, objects: tuple[str, ...]) -> Links:
        """Links to read objects of the granted files."""
        urls = self._signer()
        who, row, seen = self._renewer.own(caller, "load", lease)
        if row.ended_at is not None:
            raise AccessDenied(
                "lease_ended", "this lease has ended", "load the model again", lease=row.id
            )
        left_s = (row.expires_at - who.now) // 1000
        if left_s < 1:  # nobody said no: after an outage its renewal may come any moment
            raise Unavailable(
                "lease_lapsed",
                "this lease ran out before it was renewed",
                "try again once it is renewed; if that is refused, load the model again",
                lease=row.id,
            )
        version = self._renewer.standing(row, seen)
        files = [file for file in version.manifest.files if file.path in set(row.paths)]
        _check_objects(objects, files)
        ttl_s = min(self._parts.terms.link_ttl_s, left_s)
        return Links(links=_read(urls, objects, ttl_s), ttl_s=ttl_s)

    def pull_links(self, caller: Caller, reference: str, objects: tuple[str, ...]) -> Links:
        """Links to read the objects of a version: the policy is asked for the pull each time."""
        urls = self._signer()
        named = Reference.parse(reference)
        who = self._gate.authenticate(caller, "pull", None)
        version = self._gate.version(who, named)
        self._gate.authorise(who, "pull", version.resource())
        _check_objects(objects, version.manifest.files)
        ttl_s = self._parts.terms.link_ttl_s
        return Links(links=_read(urls, objects, ttl_s), ttl_s=ttl_s)

    def _open_upload(self, caller: Caller, upload: str) -> UploadRow:
        """The upload, kept alive by whoever goes on with it."""
        who, row = own_upload(self._parts, self._gate, caller, "push", upload)
        check_open(row, who)
        ttl_ms = self._parts.terms.upload_ttl_s * 1000
        if row.expires_at - who.now < ttl_ms // 2:
            self._parts.ledger.prolong(row.id, who.now + ttl_ms)
        return row

    def _signer(self) -> UrlSigner:
        if self._urls is None:
            raise InvalidRequest(
                "no_links",
                "this vault's store can't be reached by links",
                "use a vault whose objects lie in S3",
            )
        return self._urls


def _read(urls: UrlSigner, objects: tuple[str, ...], ttl_s: int) -> tuple[Link, ...]:
    return urls.download(objects, ttl_s) if objects else ()


def _wanted(ask: PutAsk) -> Mapping[int, int]:
    """The sizes of the parts asked for, by number."""
    if max(ask.parts) > len(ask.sizes):
        raise InvalidRequest("bad_links", "a part beyond the last one", "count parts from 1")
    return {number: ask.sizes[number - 1] for number in ask.parts}


def _fitting(
    urls: UrlSigner, name: str, transfer: str, sizes: tuple[int, ...]
) -> Collection[PutPart]:
    """The parts at the store that have the size they must have; any other is put again."""
    return [
        part
        for part in urls.parts(name, transfer)
        if part.number <= len(sizes) and part.size == sizes[part.number - 1]
    ]


def _check_objects(objects: tuple[str, ...], files: Collection[FileEntry]) -> None:
    """Raises InvalidRequest (`bad_links`), NotFound (`no_object`)."""
    if len(objects) > MAX_LINKS:
        raise InvalidRequest("bad_links", f"{len(objects)} links", f"ask for at most {MAX_LINKS}")
    if not set(object_names(files)).issuperset(objects):
        raise NotFound(
            "no_object", "an object that isn't of the granted files", "ask for what was granted"
        )
