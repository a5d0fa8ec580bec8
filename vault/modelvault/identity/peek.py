"""What a token says about itself, for whoever shows it: nothing here is verified, or believed."""

from __future__ import annotations

import base64
from typing import Any

from modelvault import canonical
from modelvault.errors import InvalidRequest

MAX_BYTES = 16 << 10


def claims(token: object) -> dict[str, Any] | None:
    """A JWT's claims; None for what isn't one."""
    if not isinstance(token, str) or len(token) > MAX_BYTES or token.count(".") != 2:
        return None
    try:
        raw = base64.urlsafe_b64decode(token.split(".")[1] + "===")
        value = canonical.loads(raw, MAX_BYTES)
    except (ValueError, InvalidRequest):
        return None
    return value if isinstance(value, dict) else None


def expires_at(token: object) -> int | None:
    """When a JWT says that it ends, in ms; None where it doesn't say, or isn't one."""
    said = (claims(token) or {}).get("exp")
    return said * 1000 if type(said) is int else None
