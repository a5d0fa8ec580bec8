"""A load, the broker's half: the lease.

The order is the promise: verified documents, policy, obligations, one committed entry, and only
then the key service. No committed entry, no key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import msgspec

from modelvault import binding
from modelvault.access import Caller
from modelvault.broker import grant
from modelvault.broker.asked import Authorised, Who, check_texts, entry, new_id
from modelvault.broker.gate import Gate, key_bound_to, refusal
from modelvault.broker.parts import Parts
from modelvault.broker.sealing import check_recipient, seal_file_keys
from modelvault.broker.unwrapping import unwrapped
from modelvault.broker.verified import KnownVersion
from modelvault.catalog import Admission, LeaseRow
from modelvault.clock import to_text
from modelvault.crypto.secret import Secret
from modelvault.errors import AccessDenied, ModelVaultError
from modelvault.identity.binding import key_hash
from modelvault.lease import Lease, LeaseAsk, Receipt
from modelvault.manifest import FileEntry
from modelvault.policy import document
from modelvault.reference import Reference


class Admitted(msgspec.Struct, frozen=True):
    """A grant that stands in the ledger: what was asked and allowed, of which files."""

    asked: Authorised
    version: KnownVersion
    files: tuple[FileEntry, ...]
    admission: Admission
    ttl_s: int


Sealer = Callable[[LeaseRow, Mapping[str, Secret]], bytes]


class Releaser:
    """`lease` of ports.broker.Broker. Thread-safe."""

    def __init__(self, parts: Parts, gate: Gate) -> None:
        self._parts = parts
        self._gate = gate

    def lease(self, caller: Caller, ask: LeaseAsk) -> Lease:
        """Admit, then unwrap, derive and seal the keys of the granted files."""
        hashed = key_hash(ask.recipient.suite, ask.recipient.public_key)
        who = self._gate.authenticate(caller, ask.action, hashed)
        reference = Reference.parse(ask.reference)
        check_recipient(ask.recipient)
        check_texts(ask.purpose, ask.ticket)
        admitted = self.admit(who, ask, self._gate.version(who, reference))

        def seal(row: LeaseRow, deks: Mapping[str, Secret]) -> bytes:
            files = [(file.artifact, file.path) for file in admitted.files]
            return seal_file_keys(files, deks, ask.recipient, self._info(row, ask))

        return _answer(admitted, self.unlock(admitted, seal))

    def admit(
        self, who: Who, ask: LeaseAsk, version: KnownVersion, destination: str | None = None
    ) -> Admitted:
        """Everything that comes before the key service: policy, obligations, limits, the entry.

        `destination` is the other vault that the keys would be handed over to.
        """
        asked, files = self._decide(who, ask, version, destination)
        hashed = key_hash(ask.recipient.suite, ask.recipient.public_key)
        row = self._row(asked, ask, version, files, hashed)
        told = entry(asked, "allowed", lease=row.id, files=len(files), bytes=row.bytes)
        if destination is not None:
            details = {**told.details, "destination": destination}
            told = msgspec.structs.replace(told, details=details)
        try:
            limits = grant.limits(asked.decision.obligations)
            admission = self._parts.ledger.admit(row, limits, told)
        except AccessDenied as stopped:
            raise self._gate.limited(asked, stopped) from None
        grant.check_same(row, admission.lease)
        ttl_s = grant.remaining_s(admission.lease, who.now)
        return Admitted(asked, version, files, admission, ttl_s)

    def unlock(self, admitted: Admitted, seal: Sealer) -> bytes:
        """What `seal` makes of the granted files' DEKs, which are wiped when it returns.

        A lease whose keys can't be had is ended again.
        """
        row = admitted.admission.lease
        artifacts = sorted({file.artifact for file in admitted.files})
        read = admitted.version.read
        at_hand = None if read is None else read.key
        try:
            with unwrapped(self._parts, row.tenant, row.model, artifacts, at_hand) as deks:
                return seal(row, deks)
        except BaseException as failure:
            self._failed(admitted, getattr(failure, "code", "interrupted"))
            raise

    def _decide(
        self, who: Who, ask: LeaseAsk, version: KnownVersion, destination: str | None
    ) -> tuple[Authorised, tuple[FileEntry, ...]]:
        """The policy's yes, what the broker itself insists on, and the files that are left."""
        wanted = grant.asked_files(ask, version)
        asked = self._gate.authorise(
            who,
            ask.action,
            version.resource(wanted),
            purpose=ask.purpose,
            ticket=ask.ticket,
            destination=destination,
            fulfils=ask.fulfils,
            seen=version.read,
        )
        insisted = document.insist(asked.decision, ask.fulfils)
        if not insisted.allowed:
            kept = Authorised(who, asked.request, insisted)
            self._parts.ledger.append(entry(kept, "denied"))
            raise refusal(kept)
        grant.check_known(ask, wanted)
        obligations = asked.decision.obligations
        files = grant.permitted(wanted, obligations, named=ask.files is not None)
        if not files:
            raise self._refuse(asked, grant.FILES_NOT_ALLOWED)
        if grant.holds_pickle(version, [file.path for file in files], obligations):
            raise self._refuse(asked, grant.PICKLE_REFUSED)
        return asked, files

    def _refuse(self, asked: Authorised, code: str) -> AccessDenied:
        return self._gate.refuse(asked, code, grant.HINTS[code])

    def _row(
        self,
        asked: Authorised,
        ask: LeaseAsk,
        version: KnownVersion,
        files: Sequence[FileEntry],
        hashed: str,
    ) -> LeaseRow:
        decision, principal = asked.decision, asked.principal
        until, total_until = grant.ends(
            asked.now, decision.obligations, self._parts.terms.default_ttl_s
        )
        return LeaseRow(
            id=new_id(),
            ask_hash=grant.ask_hash(principal.id, ask),
            subject=principal.id,
            key_hash=hashed,
            bound=key_bound_to(principal, hashed),
            tenant=version.manifest.tenant,
            model=version.manifest.model,
            version=version.manifest.version,
            manifest=version.row.digest,
            purpose=ask.purpose,
            action=ask.action,
            paths=tuple(file.path for file in files),
            bytes=sum(file.size for file in files),
            granted_at=asked.now,
            expires_at=until,
            total_until=total_until,
            revision=decision.revision,
            decision_id=decision.decision_id,
            instance=principal.instance,
        )

    def _info(self, row: LeaseRow, ask: LeaseAsk) -> bytes:
        return binding.info(
            "lease",
            self._parts.vault,
            row.id,
            row.tenant,
            row.model,
            row.version,
            row.manifest,
            row.purpose,
            row.paths,
            ask.recipient,
            ask.nonce,
        )

    def _failed(self, admitted: Admitted, code: str) -> None:
        """Write the outcome down; give the slot back unless an earlier answer is in use."""
        asked, admission = admitted.asked, admitted.admission
        told = entry(asked, "failed", lease=admission.lease.id, reasons=(code,))
        with suppress(ModelVaultError):  # the first failure is the one to tell
            if admission.repeated:
                self._parts.ledger.append(told)
            else:
                self._parts.ledger.end(admission.lease.id, asked.now, "failed", told)


def _answer(admitted: Admitted, sealed: bytes) -> Lease:
    asked, admission = admitted.asked, admitted.admission
    row = admission.lease
    return Lease(
        id=row.id,
        tenant=row.tenant,
        model=row.model,
        version=row.version,
        manifest=row.manifest,
        paths=row.paths,
        ttl_s=admitted.ttl_s,
        expires_at=to_text(row.expires_at),
        obligations=asked.decision.obligations,
        decision_id=asked.decision.decision_id,
        revision=asked.decision.revision,
        receipt=Receipt(admission.entry_id, admission.leaf_hash.hex()),
        sealed=sealed,
        signed=admitted.version.signed,
    )
