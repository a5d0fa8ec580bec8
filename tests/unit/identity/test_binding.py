from __future__ import annotations

from modelvault.crypto import hpke
from modelvault.identity.binding import bound_audience, key_hash, plain_audience


def test_a_known_hash() -> None:
    """Computed with sha256sum and basenc, of `x25519` and 32 zero bytes."""
    assert key_hash("x25519", bytes(32)) == "h2fBtttPJcL7tSBe_If8XJxChgbX4WGgDX8q5geYZh4"


def test_suite_and_key_both_count() -> None:
    hashes = {key_hash(suite, bytes([n]) * 32) for suite in hpke.SUITES for n in range(2)}
    assert len(hashes) == 4


def test_audiences() -> None:
    vault = "0a" * 16
    assert plain_audience(vault) == f"modelvault:{vault}"
    assert bound_audience(vault, "HASH") == f"modelvault:{vault}:HASH"
