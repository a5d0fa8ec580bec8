"""What the vault needs from outside, as Protocols. Adapters implement them.

Held by all: an implementation may be used by many threads at once; nothing but
`modelvault.errors` escapes from it; a part that doesn't answer is `Unavailable`.
"""

from modelvault.ports.broker import Broker, Steward
from modelvault.ports.identity import IssuerKeys, VerifyingKey
from modelvault.ports.keys import (
    BundleSigner,
    KeyAdmin,
    KeyService,
    Signer,
    SigningAdmin,
    WrappedKey,
)
from modelvault.ports.ledger import Ledger
from modelvault.ports.objects import (
    ObjectInfo,
    ObjectReader,
    ObjectStore,
    ObjectWriter,
    Places,
    PutPart,
    UploadStore,
    UrlSigner,
)
from modelvault.ports.policy import PolicyEngine, PolicyShelf

__all__ = [
    "Broker",
    "BundleSigner",
    "IssuerKeys",
    "KeyAdmin",
    "KeyService",
    "Ledger",
    "ObjectInfo",
    "ObjectReader",
    "ObjectStore",
    "ObjectWriter",
    "Places",
    "PolicyEngine",
    "PolicyShelf",
    "PutPart",
    "Signer",
    "SigningAdmin",
    "Steward",
    "UploadStore",
    "UrlSigner",
    "VerifyingKey",
    "WrappedKey",
]
