"""Other vaults, and what is believed of them: only those whose trust file an admin has pinned.

Their documents come through a client's hands. Without the pin a client could invite with a key of
its own and be handed the keys of whole versions, or bring versions that no vault has signed.
"""

from __future__ import annotations

from modelvault.artifact import trust as trusting
from modelvault.artifact.trust import Seen, Verified
from modelvault.broker.asked import Who, new_id
from modelvault.broker.parts import Parts
from modelvault.clock import to_text
from modelvault.copies import INVITATION_TYPE, Invitation, same_vault, untrusted
from modelvault.crypto import dsse
from modelvault.crypto.dsse import Envelope
from modelvault.errors import Conflict, IntegrityError
from modelvault.manifest import Manifest
from modelvault.record import Entry, SignedVersion, TrustFile
from modelvault.reference import Reference


def verified_invitation(parts: Parts, who: Who, envelope: Envelope) -> Invitation:
    """The invitation of a vault that is trusted, by a key of it that is in use now.

    Raises AccessDenied (`untrusted_vault`), IntegrityError as `dsse.verify`, both once they stand
    in the audit log, and Conflict (`invitation_expired`).
    """
    invitation = Invitation.from_bytes(envelope.payload)
    trust = _trusted(parts, who, "export", invitation.vault)
    keys = trust.current_keys("manifest", to_text(who.now))
    try:
        dsse.verify(envelope, INVITATION_TYPE, keys, "the invitation")
    except IntegrityError as refused:
        _tell(parts, who, "export", refused.code, invitation.vault)
        raise
    if invitation.expires_at <= to_text(who.now):
        raise Conflict(
            "invitation_expired",
            f"the invitation was good until {invitation.expires_at}",
            "begin the import anew, and ask with its invitation",
        )
    return invitation


def verified_source(parts: Parts, who: Who, signed: SignedVersion) -> Verified:
    """The version that documents of another vault tell of.

    Raises AccessDenied (`untrusted_vault`) and IntegrityError as `artifact.trust.verify`, both once
    they stand in the audit log.
    """
    claimed = Manifest.from_bytes(signed.manifest.payload)
    trust = _trusted(parts, who, "push", claimed.vault)
    named = Reference(claimed.tenant, claimed.model, version=claimed.version)
    documents = SignedVersion(model=signed.model, manifest=signed.manifest)
    try:
        return trusting.verify(documents, named, trust, Seen())
    except IntegrityError as refused:
        _tell(parts, who, "push", refused.code, claimed.vault)
        raise


def _trusted(parts: Parts, who: Who, action: str, vault: str) -> TrustFile:
    if vault == parts.vault:
        raise same_vault()
    trust = parts.trusted.get(vault)
    if trust is not None:
        return trust
    _tell(parts, who, action, "untrusted_vault", vault)
    raise untrusted(parts.vault, vault, action, subject=who.principal.id)


def _tell(parts: Parts, who: Who, action: str, code: str, vault: str) -> None:
    entry = Entry(
        id=new_id(),
        at=to_text(who.now),
        actor=who.principal.id,
        action=action,
        outcome="denied",
        reasons=(code,),
        details={"other_vault": vault},
    )
    parts.ledger.append(entry)
