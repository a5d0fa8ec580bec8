"""The issuers of a deployment file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from modelvault.errors import InvalidRequest
from modelvault.identity.issuer import Issuer


class Trusted(msgspec.Struct, frozen=True, kw_only=True):
    """An issuer, and where its keys are."""

    issuer: Issuer
    jwks: str
    ca: Path | None


def trusted(told: Mapping[str, Any]) -> Trusted:
    """One `[[issuers]]`. Raises InvalidRequest (`bad_issuers`) that names the field."""
    given = dict(told)
    jwks, ca = given.pop("jwks", None), given.pop("ca", None)
    try:
        msgspec.convert([jwks, ca or ""], tuple[str, str], strict=True)
        issuer = msgspec.convert(given, Issuer, strict=True)
    except (msgspec.ValidationError, ValueError) as refused:
        raise InvalidRequest(
            "bad_issuers", f"an issuer can't be used: {refused}", "mend [[issuers]]"
        ) from None
    return Trusted(issuer=issuer, jwks=jwks, ca=None if ca is None else Path(ca))
