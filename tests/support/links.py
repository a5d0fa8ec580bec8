"""A store that gives links, in memory: what the broker signs, without a server behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modelvault.errors import Conflict, IntegrityError, NotFound
from modelvault.lease import Link
from modelvault.ports.objects import PutPart


class PlainLinks:
    """ports.objects.UrlSigner. `sent` holds what was put in parts, by (name, transfer)."""

    def __init__(self) -> None:
        self.sent: dict[tuple[str, str], dict[int, int]] = {}
        self.complete_names: dict[str, int] = {}
        self.begun = 0

    def download(self, names: Sequence[str], ttl_s: int) -> tuple[Link, ...]:
        return tuple(Link(object=n, url=f"https://store/{n}?get&ttl={ttl_s}") for n in names)

    def upload(self, name: str, size: int, ttl_s: int) -> Link:
        url = f"https://store/{name}?put&size={size}&ttl={ttl_s}"
        return Link(object=name, url=url, headers={"If-None-Match": "*"})

    def begin(self, name: str) -> str:
        self.begun += 1
        transfer = f"transfer-{self.begun}"
        self.sent[name, transfer] = {}
        return transfer

    def upload_parts(
        self, name: str, transfer: str, sizes: Mapping[int, int], ttl_s: int
    ) -> tuple[Link, ...]:
        return tuple(
            Link(object=name, url=f"https://store/{name}?{transfer}&part={n}&size={s}", part=n)
            for n, s in sizes.items()
        )

    def parts(self, name: str, transfer: str) -> tuple[PutPart, ...]:
        found = self.sent.get((name, transfer))
        if found is None:
            raise NotFound("no_transfer", "no such transfer", "begin anew")
        return tuple(PutPart(n, s) for n, s in sorted(found.items()))

    def complete(self, name: str, transfer: str, sizes: Sequence[int]) -> None:
        if self.complete_names.get(name) == sum(sizes) and (name, transfer) not in self.sent:
            return
        if name in self.complete_names:
            raise Conflict("object_exists", "there is one already", "take another name")
        if [(p.number, p.size) for p in self.parts(name, transfer)] != list(enumerate(sizes, 1)):
            raise IntegrityError("parts_missing", "parts are missing", "put them")
        del self.sent[name, transfer]
        self.complete_names[name] = sum(sizes)

    def abort(self, name: str, transfer: str) -> None:
        self.sent.pop((name, transfer), None)
