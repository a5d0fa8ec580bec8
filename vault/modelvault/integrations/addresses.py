"""How frameworks name a file of a version: `modelvault://[tenant/]name[:tag|@version]/path`."""

from __future__ import annotations

import msgspec

from modelvault.errors import InvalidRequest
from modelvault.reference import Reference

SCHEME = "modelvault"


class Address(msgspec.Struct, frozen=True):
    """A reference, as it was written, and a path in that version; "" is the version itself."""

    reference: str
    path: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """`text` with its scheme or without; slashes at the end don't count.

        The first of its two first parts that names a tag or a version ends the reference, so a
        tenant's model is written with one of them; where neither does, the first part is the
        model. Raises InvalidRequest (`bad_reference`, `no_model_named`).
        """
        bare = text.removeprefix(f"{SCHEME}://").strip("/")
        if not bare:
            raise InvalidRequest(
                "no_model_named",
                "a modelvault:// address names a model; there is no listing of all of them",
                "write modelvault://name@version/path; `modelvault list` shows the models",
            )
        parts = bare.split("/")
        length = 2 if len(parts) > 1 and not _exact(parts[0]) and _exact(parts[1]) else 1
        reference = "/".join(parts[:length])
        Reference.parse(reference)
        return cls(reference, "/".join(parts[length:]))

    def __str__(self) -> str:
        return f"{self.reference}/{self.path}" if self.path else self.reference


def _exact(part: str) -> bool:
    return ":" in part or "@" in part
