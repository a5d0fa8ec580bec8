"""How people name a model: `[tenant/]name[:tag | @version | @sha256:...]`."""

from __future__ import annotations

import re
from typing import Self

import msgspec

from modelvault.errors import InvalidRequest

DEFAULT_TENANT = "default"
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REFERENCE = re.compile(
    rf"(?:(?P<tenant>{NAME})/)?(?P<model>{NAME})"
    rf"(?::(?P<tag>{NAME})|@(?P<version>[1-9][0-9]{{0,8}})|@(?P<digest>sha256:[0-9a-f]{{64}}))?"
)


class Reference(msgspec.Struct, frozen=True):
    """A model, and at most one of a tag, a version number and a manifest digest.

    With none of the three it means the highest version that isn't hidden.
    """

    tenant: str
    model: str
    tag: str | None = None
    version: int | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidRequest (`bad_reference`) for anything that isn't a reference."""
        match = _REFERENCE.fullmatch(text) if len(text) <= 512 else None
        if match is None:
            raise InvalidRequest(
                "bad_reference",
                f"not a model reference: {text[:80]!r}",
                "leave modelvault:// out: here the reference stands by itself"
                if text.startswith("modelvault://")
                else "write [tenant/]name, [tenant/]name:tag, name@version or "
                "name@sha256:<64 hex>; names are letters, digits, dot, dash and underscore, "
                "at most 96",
            )
        version = match["version"]
        return cls(
            tenant=match["tenant"] or DEFAULT_TENANT,
            model=match["model"],
            tag=match["tag"],
            version=int(version) if version else None,
            digest=match["digest"],
        )

    @property
    def name(self) -> str:
        """Tenant and model; the default tenant is left out."""
        return self.model if self.tenant == DEFAULT_TENANT else f"{self.tenant}/{self.model}"

    def __str__(self) -> str:
        if self.tag is not None:
            return f"{self.name}:{self.tag}"
        if self.version is not None:
            return f"{self.name}@{self.version}"
        return f"{self.name}@{self.digest}" if self.digest else self.name
