"""Make the HPKE vectors in vectors/hpke: a fixed recipient key and what was sealed to it.

    PYTHONPATH=tests python -m vectors.make_hpke

Sealing is random, so each run makes other ciphertexts: it is run once for each suite, and what it
made then stays readable for ever.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from modelvault.crypto import hpke
from modelvault.crypto.secret import Secret

FOLDER = Path(__file__).parent / "hpke"


def seed(text: str, size: int) -> bytes:
    return hashlib.shake_128(b"modelvault hpke vectors " + text.encode()).digest(size)


def recipient(suite: str, mlkem_seed: bytes | None, x25519: bytes) -> hpke.RecipientKey:
    """The key of a vector: ML-KEM-768 from its 64-byte seed (d, z), X25519 from 32 raw bytes."""
    mlkem = MLKEM768PrivateKey.from_seed_bytes(mlkem_seed) if mlkem_seed else None
    return hpke.RecipientKey(suite, mlkem, X25519PrivateKey.from_private_bytes(x25519))


def vector(suite: str) -> dict:
    mlkem = seed("ml-kem", 64) if suite == hpke.HYBRID else None
    x25519 = seed("x25519", 32)
    key = recipient(suite, mlkem, x25519)
    plaintext, info = seed("two file keys", 64), b'{"v":1,"kind":"lease"}'
    sealed = hpke.seal(Secret.copy_of(plaintext), suite, key.public, info)
    return {
        "suite": suite,
        "mlkem768_seed": mlkem.hex() if mlkem else None,
        "x25519_private": x25519.hex(),
        "public": key.public.hex(),
        "info": info.hex(),
        "plaintext": plaintext.hex(),
        "sealed": sealed.hex(),
    }


if __name__ == "__main__":
    for name in hpke.SUITES:
        path = FOLDER / f"{name}.json"
        if not path.exists():
            path.write_text(json.dumps(vector(name), indent=1) + "\n")
