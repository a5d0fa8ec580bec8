"""Trust files, envelopes and signed versions, and what `trust.verify` makes of them."""

from __future__ import annotations

from fuzz.harness import main, only_our_errors
from modelvault import canonical
from modelvault.artifact.trust import Seen, verify
from modelvault.crypto.dsse import Envelope
from modelvault.record import MAX_TRUST, ModelRecord, SignedVersion, TagRecord, TrustFile
from modelvault.reference import Reference
from support.documents import Keys, manifest, model_record, signed_version, tag_record

KEYS = Keys()
GOOD = manifest()
SIGNED = signed_version(KEYS, GOOD, tag=tag_record(GOOD))
ASKED = Reference.parse("m:prod")
EXPECTED = verify(SIGNED, ASKED, KEYS.trust(), Seen()).digest
LIMIT = 1 << 20

SEEDS = [
    canonical.encode(SIGNED),
    canonical.encode(signed_version(KEYS, GOOD)),
    KEYS.trust().to_bytes(),
    SIGNED.model.to_bytes(),
    canonical.encode(model_record()),
    canonical.encode(tag_record(GOOD)),
    b"{}",
    b"",
]


def one_input(data: bytes) -> None:
    """Nothing is believed but the one manifest that these keys have signed."""
    with only_our_errors():
        trust = TrustFile.from_bytes(data)
        assert TrustFile.from_bytes(trust.to_bytes()) == trust
        assert len(data) <= MAX_TRUST
    with only_our_errors():
        envelope = Envelope.from_bytes(data, limit=LIMIT, what="envelope")
        assert Envelope.from_bytes(envelope.to_bytes(), limit=LIMIT, what="again") == envelope
    for kind in (ModelRecord, TagRecord):
        with only_our_errors():
            canonical.decode(data, kind, limit=LIMIT, what="record")
    with only_our_errors():
        signed = canonical.decode(data, SignedVersion, limit=LIMIT, what="answer")
        assert verify(signed, ASKED, KEYS.trust(), Seen()).digest == EXPECTED


if __name__ == "__main__":
    main(one_input, SEEDS)
