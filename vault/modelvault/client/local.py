"""What a session of an embedded vault can do besides: its home is here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from modelvault.record import TrustFile


class Mint(Protocol):
    """Makes a token of the home's own issuer; `sub` and `groups` None mean its default identity."""

    def __call__(
        self,
        *,
        sub: str | None,
        groups: Sequence[str] | None,
        lifetime_s: int,
        claims: Mapping[str, object],
        key_hash: str | None,
    ) -> str:
        """The token. Raises InvalidRequest for a lifetime that the issuer doesn't give."""
        ...


class Local(msgspec.Struct, frozen=True, kw_only=True):
    """`freeze_policy` keeps the edited policies as a revision and returns it; `pin` lets another
    vault, by its trust file, give and get versions, `pinned` are those that may, by vault, and
    `unpin` ends it for a vault; its NotFound is `not_pinned`."""

    mint: Mint
    freeze_policy: Callable[[], str]
    pin: Callable[[TrustFile], None]
    pinned: Callable[[], Mapping[str, TrustFile]]
    unpin: Callable[[str], None]
