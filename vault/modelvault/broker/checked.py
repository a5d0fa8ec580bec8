"""Values that come from a caller in this process, parsed as strictly as those over a wire."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from modelvault import canonical
from modelvault.errors import InvalidRequest

Ask = TypeVar("Ask", bound=msgspec.Struct)


def checked(ask: Ask, what: str) -> Ask:
    """The value, parsed anew. Raises InvalidRequest (`bad_document`) that names the field."""
    try:
        plain = msgspec.to_builtins(ask)
    except (TypeError, ValueError):
        raise InvalidRequest("bad_document", f"{what}: a field of a wrong type") from None
    return canonical.convert(plain, type(ask), what=what, error=InvalidRequest)
