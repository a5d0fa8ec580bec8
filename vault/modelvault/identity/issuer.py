"""Whose tokens a vault believes, and how far."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from modelvault.errors import InvalidRequest

Algorithm = Literal["EdDSA", "ES256", "ES384", "RS256", "PS256"]

LOCAL = "local"
MAX_LEEWAY_S = 30
MAX_LIFETIME_S = 86_400


class Issuer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One issuer of the configuration. Nothing in here ever comes from a token.

    `name` stands in front of subjects and groups (`local:alice`); it has no colon, so no issuer
    can speak for another's. `iss` must be equal to the token's to the byte. `max_lifetime_s` caps
    exp - iat; `leeway_s` allows for clocks that differ, 30 s at most. `groups_claim` names the
    claim with the subject's groups.
    """

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}\Z")]
    iss: Annotated[str, Meta(min_length=1, max_length=512)]
    algorithms: Annotated[tuple[Algorithm, ...], Meta(min_length=1)]
    max_lifetime_s: Annotated[int, Meta(ge=1, le=MAX_LIFETIME_S)] = 3600
    leeway_s: Annotated[int, Meta(ge=0, le=MAX_LEEWAY_S)] = 10
    groups_claim: Annotated[str, Meta(min_length=1, max_length=256)] = "groups"

    def __post_init__(self) -> None:
        # Struct checks types only where it decodes: an issuer built by hand is checked here too.
        if not 0 <= self.leeway_s <= MAX_LEEWAY_S or not 1 <= self.max_lifetime_s <= MAX_LIFETIME_S:
            raise ValueError(f"issuer {self.name}: leeway or lifetime out of range")
        if ":" in self.name or not self.name or not self.iss or not self.algorithms:
            raise ValueError("an issuer needs a name without colon, an iss and an algorithm")


def local_issuer(vault: str) -> Issuer:
    """The embedded vault's own issuer: its tokens are signed by the keyring's `token` key."""
    return Issuer(name=LOCAL, iss=f"urn:modelvault:{vault}", algorithms=("EdDSA",))


def by_iss(issuers: Iterable[Issuer]) -> dict[str, Issuer]:
    """{iss: issuer}. Raises InvalidRequest (`bad_issuers`) when two share a name or an `iss`."""
    listed = tuple(issuers)
    found = {issuer.iss: issuer for issuer in listed}
    if len(found) != len(listed) or len({issuer.name for issuer in listed}) != len(listed):
        raise InvalidRequest(
            "bad_issuers",
            "two configured issuers have one name or one iss",
            "give each its own: the name is what keeps their subjects apart",
        )
    return found
