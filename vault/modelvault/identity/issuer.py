"""Whose tokens a vault believes, how far, and what it makes of their claims."""

from __future__ import annotations

import re
from collections.abc import Iterable
from string import Formatter
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from modelvault.errors import InvalidRequest

Algorithm = Literal["EdDSA", "ES256", "ES384", "RS256", "PS256"]

LOCAL = "local"
GROUPS = "groups"
MAX_LEEWAY_S = 30
MAX_LIFETIME_S = 86_400

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """A claim that is given a name, to be used in subject and groups.

    `path` leads to it (`("kubernetes.io", "pod", "uid")`). The claim is text, or a whole number
    or boolean, taken as JSON writes it; the whole of it must match `pattern` and be one of
    `values`, where there are any. A token whose claim doesn't fit is refused, and one without it
    as well unless the field is `optional`.
    """

    name: str
    path: tuple[str, ...]
    pattern: str
    values: tuple[str, ...] = ()
    optional: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or not self.path or not all(self.path):
            raise ValueError(f"field {self.name!r}: a name and a path are needed")
        re.compile(self.pattern)


class Derived(msgspec.Struct, frozen=True):
    """A text made of fields, `repository:{repository}:ref:{ref}`: a group, or the subject.

    It is made where the token has all the fields named in it, and the `only` ones have the values
    given there. Text that others choose stands at the end, behind what they can't choose: so no
    two different sets of fields ever make one text.
    """

    text: str
    only: tuple[tuple[str, str], ...] = ()

    def fields(self) -> set[str]:
        """The names of all fields that it looks at."""
        named = {name for _, name, _, _ in Formatter().parse(self.text) if name is not None}
        return named | {name for name, _ in self.only}

    def of(self, found: dict[str, str]) -> str | None:
        """The text for a token's fields, or None."""
        if not self.fields() <= found.keys() or any(found[name] != is_ for name, is_ in self.only):
            return None
        return self.text.format_map(found)


class Issuer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One issuer of the configuration. Nothing in here ever comes from a token.

    `name` stands in front of subjects and groups (`local:alice`); it has no colon, so no issuer
    can speak for another's. `iss` must be equal to the token's to the byte. `max_lifetime_s` caps
    exp - iat; `leeway_s` allows for clocks that differ, 30 s at most. `groups_claim` names the
    claim with the subject's groups, None says that it has none. `audience` is the one that bearer
    tokens are made for, where that isn't the vault's own.

    `fields` are claims with names. The first of `subjects` that can be made is the principal;
    without any it is `sub`, and where `sub_is` stands, `sub` must be that. `groups` come besides
    those of `groups_claim`. `instance` names the field that tells one run of a workload from
    another: limits count for each by itself.
    """

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}\Z")]
    iss: Annotated[str, Meta(min_length=1, max_length=512)]
    algorithms: Annotated[tuple[Algorithm, ...], Meta(min_length=1)]
    max_lifetime_s: Annotated[int, Meta(ge=1, le=MAX_LIFETIME_S)] = 3600
    leeway_s: Annotated[int, Meta(ge=0, le=MAX_LEEWAY_S)] = 10
    groups_claim: Annotated[str, Meta(min_length=1, max_length=256)] | None = GROUPS
    audience: Annotated[str, Meta(min_length=1, max_length=512)] | None = None
    fields: tuple[Field, ...] = ()
    sub_is: Derived | None = None
    subjects: tuple[Derived, ...] = ()
    groups: tuple[Derived, ...] = ()
    instance: str | None = None

    def __post_init__(self) -> None:
        # Struct checks types only where it decodes: an issuer built by hand is checked here too.
        if not 0 <= self.leeway_s <= MAX_LEEWAY_S or not 1 <= self.max_lifetime_s <= MAX_LIFETIME_S:
            raise ValueError(f"issuer {self.name}: leeway or lifetime out of range")
        if ":" in self.name or not self.name or not self.iss or not self.algorithms:
            raise ValueError("an issuer needs a name without colon, an iss and an algorithm")
        known = {field.name for field in self.fields}
        if len(known) != len(self.fields) or not self._named() <= known:
            raise ValueError(f"issuer {self.name}: a field is named twice, or used and not there")

    def _named(self) -> set[str]:
        used = set() if self.instance is None else {self.instance}
        derived = (*self.subjects, *self.groups, *((self.sub_is,) if self.sub_is else ()))
        return used.union(*(one.fields() for one in derived))


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
