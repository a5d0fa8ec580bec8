"""What a broker is put together from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelvault.broker.terms import Terms
from modelvault.crypto import derive
from modelvault.manifest import DigestAlgorithm
from modelvault.ports.keys import KeyAdmin, KeyService, Signer
from modelvault.ports.ledger import Ledger
from modelvault.ports.objects import ObjectStore
from modelvault.record import TrustFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The ports and the vault's constants. `trust` names the keys whose documents are believed;
    `trusted` are the trust files of other vaults that an admin lets give and get versions."""

    vault: str
    ledger: Ledger
    objects: ObjectStore
    keys: KeyService
    admin: KeyAdmin
    signer: Signer
    trust: TrustFile
    digest_alg: DigestAlgorithm
    segment_length: int
    terms: Terms
    trusted: Mapping[str, TrustFile] = field(default_factory=dict)

    def kek(self, tenant: str, model: str) -> str:
        """The name of a model's KEK at the key service."""
        return derive.kek_name(self.vault, tenant, model)

    def key_context(self, tenant: str, model: str, artifact: str) -> bytes:
        """What the wrapped DEK of an artifact is bound to."""
        return derive.key_context(self.vault, tenant, model, artifact)
