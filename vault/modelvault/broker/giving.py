"""A version's keys, handed over to another vault.

At least as strong as an export: whoever has the DEKs has all files for good. So the policy is asked
for `export` with the other vault named, the grant stands in the ledger before any key leaves, and
the keys are sealed to a key that the other vault has signed for, by a trust file that an admin has
pinned here. What is handed out opens for that vault's broker alone, for one import.
"""

from __future__ import annotations

from collections.abc import Mapping

from modelvault import binding
from modelvault.access import OBLIGATION_TYPES, Caller
from modelvault.broker.asked import check_texts
from modelvault.broker.gate import Gate
from modelvault.broker.parts import Parts
from modelvault.broker.release import Releaser
from modelvault.broker.sealing import check_recipient, seal_deks
from modelvault.broker.trusted import verified_invitation
from modelvault.catalog import LeaseRow
from modelvault.copies import HandedOver, HandOverAsk, Invitation
from modelvault.crypto.secret import Secret
from modelvault.errors import Conflict
from modelvault.identity.binding import key_hash
from modelvault.lease import LeaseAsk, Receipt
from modelvault.manifest import CopiedFrom
from modelvault.reference import Reference


class Giver:
    """`hand_over` of ports.broker.Broker. Thread-safe."""

    def __init__(self, parts: Parts, gate: Gate, releaser: Releaser) -> None:
        self._parts = parts
        self._gate = gate
        self._releaser = releaser

    def hand_over(self, caller: Caller, ask: HandOverAsk) -> HandedOver:
        """Admit as for an export of all files, then seal the DEKs for the vault that invites."""
        claimed = Invitation.from_bytes(ask.invitation.payload).recipient
        who = self._gate.authenticate(caller, "export", key_hash(claimed.suite, claimed.public_key))
        reference = Reference.parse(ask.reference)
        check_texts(ask.purpose, ask.ticket)
        # Before the model is looked at: what is wrong with an invitation tells nothing of models.
        invitation = verified_invitation(self._parts, who, ask.invitation)
        check_recipient(invitation.recipient)
        version = self._gate.version(who, reference)
        lease = LeaseAsk(
            reference=str(reference),
            purpose=ask.purpose,
            action="export",
            files=tuple(file.path for file in version.manifest.files),
            ticket=ask.ticket,
            nonce=invitation.nonce,
            recipient=invitation.recipient,
            # Limits are the broker's to keep, and no plaintext gets to any disk on the way.
            fulfils=tuple(sorted(OBLIGATION_TYPES)),
        )
        try:
            admitted = self._releaser.admit(who, lease, version, invitation.vault)
        except Conflict as over:
            if over.code != "lease_ended":
                raise
            raise Conflict(
                "invitation_used",
                "this invitation's grant has ended: its keys were handed over, or couldn't be",
                "begin the import anew, and ask with its invitation",
            ) from None
        source = CopiedFrom(
            self._parts.vault,
            version.manifest.tenant,
            version.manifest.model,
            version.manifest.version,
            version.row.digest,
        )

        def seal(_row: LeaseRow, deks: Mapping[str, Secret]) -> bytes:
            artifacts = sorted(deks)
            info = binding.copy_info(source, invitation, artifacts)
            return seal_deks([deks[one] for one in artifacts], invitation.recipient, info)

        sealed = self._releaser.unlock(admitted, seal)
        decision, admission = admitted.asked.decision, admitted.admission
        return HandedOver(
            lease=admission.lease.id,
            destination=invitation.vault,
            upload=invitation.upload,
            version=source.version,
            manifest=source.manifest,
            decision_id=decision.decision_id,
            revision=decision.revision,
            receipt=Receipt(admission.entry_id, admission.leaf_hash.hex()),
            sealed=sealed,
        )
