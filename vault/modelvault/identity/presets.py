"""The issuers of a deployment's configuration: known kinds, each with what may be believed of it.

Each kind is a value that says what differs from vault to vault; `trusted` makes of it the Issuer
that `tokens.verify` works with, and says where its keys are. What a CI system names by text (an
organisation, a repository) can be given up and taken by somebody else: subjects and groups are
made of its numeric ids alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from modelvault.errors import InvalidRequest
from modelvault.identity.issuer import (
    MAX_LEEWAY_S,
    MAX_LIFETIME_S,
    Algorithm,
    Derived,
    Field,
    Issuer,
    by_iss,
)

_PUBLIC_GITHUB = "https://token.actions.githubusercontent.com"
_PUBLIC_GITLAB = "https://gitlab.com"

_Text = Annotated[str, Meta(min_length=1, max_length=512)]
_Digits = Annotated[str, Meta(pattern=r"^[0-9]{1,20}\Z")]
_NUMBER = r"[0-9]{1,20}"
_LABEL = r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"  # a DNS subdomain, as Kubernetes names things
_UID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_LINE = r"[^\x00-\x1f\x7f]{1,200}"
_FLAG = r"true|false"


class KeySource(msgspec.Struct, frozen=True, kw_only=True):
    """Where an issuer's public keys are: a JWKS (RFC 7517) at `url`, or in `file`.

    `token_file` holds a bearer token for the fetch, read anew for each (Kubernetes wants one).
    Keys are fetched again each `refresh_s`; while that fails, the known ones count until
    `stale_s` after the last fetch that didn't. An unknown key id makes for a fetch at most once
    in `unknown_s`.
    """

    url: str | None = None
    file: Path | None = None
    ca: Path | None = None
    token_file: Path | None = None
    refresh_s: float = 300
    stale_s: float = 21_600
    unknown_s: float = 10


class Trusted(msgspec.Struct, frozen=True):
    """An issuer and where its keys are."""

    issuer: Issuer
    keys: KeySource


class _Common(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all kinds have. At most one of `jwks` and `jwks_file`; kinds with a known URL need
    none."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}\Z")]
    jwks: _Text | None = None
    jwks_file: Path | None = None
    ca: Path | None = None
    token_file: Path | None = None
    algorithms: Annotated[tuple[Algorithm, ...], Meta(min_length=1)] = ("RS256", "ES256")
    audience: _Text | None = None
    max_lifetime_s: Annotated[int, Meta(ge=1, le=MAX_LIFETIME_S)] = 3600
    leeway_s: Annotated[int, Meta(ge=0, le=MAX_LEEWAY_S)] = 10
    refresh_s: Annotated[float, Meta(ge=1, le=86_400)] = 300
    stale_s: Annotated[float, Meta(ge=1, le=604_800)] = 21_600
    unknown_s: Annotated[float, Meta(ge=1, le=3600)] = 10

    def _keys(self, url: str | None) -> KeySource:
        if self.jwks is not None and self.jwks_file is not None:
            raise ValueError("name one of jwks and jwks_file")
        if self.jwks is None and self.jwks_file is None and url is None:
            raise ValueError("name jwks or jwks_file: keys are never looked for elsewhere")
        if self.stale_s < self.refresh_s:
            raise ValueError("stale_s is shorter than refresh_s")
        return KeySource(
            url=None if self.jwks_file else self.jwks or url,
            file=self.jwks_file,
            ca=self.ca,
            token_file=self.token_file,
            refresh_s=self.refresh_s,
            stale_s=self.stale_s,
            unknown_s=self.unknown_s,
        )

    def _issuer(self, iss: str, **made: Any) -> Issuer:  # noqa: ANN401  Issuer's own fields
        return Issuer(
            name=self.name,
            iss=iss,
            algorithms=self.algorithms,
            max_lifetime_s=self.max_lifetime_s,
            leeway_s=self.leeway_s,
            audience=self.audience,
            **made,
        )


class Kubernetes(_Common, frozen=True, kw_only=True, tag_field="kind", tag="kubernetes"):
    """Projected service account tokens of one cluster.

    The principal is `NAME:system:serviceaccount:NAMESPACE:ACCOUNT`; groups are
    `NAME:namespace:NAMESPACE` and `NAME:serviceaccount:NAMESPACE:ACCOUNT`. Only tokens bound to a
    pod are taken: they end with it. Limits count for each pod by itself.
    """

    iss: _Text
    namespaces: tuple[_Text, ...] = ()

    def trusted(self) -> Trusted:
        """The issuer, and its keys: at the cluster's own address where nothing else is named."""
        claim = "kubernetes.io"
        issuer = self._issuer(
            self.iss,
            groups_claim=None,
            fields=(
                _field("namespace", _LABEL, claim, "namespace", values=self.namespaces),
                _field("account", _LABEL, claim, "serviceaccount", "name"),
                _field("pod", _UID, claim, "pod", "uid"),
            ),
            sub_is=Derived("system:serviceaccount:{namespace}:{account}"),
            groups=(
                Derived("namespace:{namespace}"),
                Derived("serviceaccount:{namespace}:{account}"),
            ),
            instance="pod",
        )
        return Trusted(issuer, self._keys(self.iss.rstrip("/") + "/openid/v1/jwks"))


class GitHub(_Common, frozen=True, kw_only=True, tag_field="kind", tag="github"):
    """GitHub Actions. `owners` are the numeric ids of the organisations and users whose
    repositories are meant: without them all of the service's users could log in.

    The principal is `NAME:repository:ID:environment:ENVIRONMENT`, or for a job without one
    `NAME:repository:ID:ref:REF`; groups are `NAME:owner:ID`, `NAME:repository:ID`,
    `NAME:repository:ID:ref:REF` and `NAME:repository:ID:environment:ENVIRONMENT`.
    """

    iss: _Text = _PUBLIC_GITHUB
    owners: Annotated[tuple[_Digits, ...], Meta(min_length=1)]
    repositories: tuple[_Digits, ...] = ()

    def trusted(self) -> Trusted:
        """The issuer, and its keys."""
        at_ref = Derived("repository:{repository}:ref:{ref}")
        in_environment = Derived("repository:{repository}:environment:{environment}")
        issuer = self._issuer(
            self.iss,
            groups_claim=None,
            fields=(
                _field("owner", _NUMBER, "repository_owner_id", values=self.owners),
                _field("repository", _NUMBER, "repository_id", values=self.repositories),
                _field("ref", r"refs/" + _LINE, "ref"),
                _field("environment", _LINE, "environment", optional=True),
            ),
            subjects=(in_environment, at_ref),
            groups=(
                Derived("owner:{owner}"),
                Derived("repository:{repository}"),
                at_ref,
                in_environment,
            ),
        )
        return Trusted(issuer, self._keys(self.iss.rstrip("/") + "/.well-known/jwks"))


class GitLab(_Common, frozen=True, kw_only=True, tag_field="kind", tag="gitlab"):
    """GitLab CI. At the public service `namespaces` or `projects` (numeric ids) must be named:
    without them all of its users could log in.

    The principal is `NAME:project:ID:ref:REF`; groups are `NAME:namespace:ID`, `NAME:project:ID`,
    and on a protected branch or tag `NAME:project:ID:protected` and
    `NAME:project:ID:protected:ref:REF`. Of environments only protected ones make a group,
    `NAME:project:ID:environment:ENVIRONMENT`: any other can be named by any branch.
    """

    iss: _Text = _PUBLIC_GITLAB
    namespaces: tuple[_Digits, ...] = ()
    projects: tuple[_Digits, ...] = ()

    def __post_init__(self) -> None:
        if self.iss == _PUBLIC_GITLAB and not (self.namespaces or self.projects):
            raise ValueError("name the namespaces or the projects that are meant")

    def trusted(self) -> Trusted:
        """The issuer, and its keys."""
        protected = (("protected", "true"),)
        guarded = (("environment_protected", "true"),)
        issuer = self._issuer(
            self.iss,
            groups_claim=None,
            fields=(
                _field("namespace", _NUMBER, "namespace_id", values=self.namespaces),
                _field("project", _NUMBER, "project_id", values=self.projects),
                _field("ref", r"refs/" + _LINE, "ref_path"),
                _field("protected", _FLAG, "ref_protected"),
                _field("environment", _LINE, "environment", optional=True),
                _field("environment_protected", _FLAG, "environment_protected", optional=True),
            ),
            subjects=(Derived("project:{project}:ref:{ref}"),),
            groups=(
                Derived("namespace:{namespace}"),
                Derived("project:{project}"),
                Derived("project:{project}:protected", protected),
                Derived("project:{project}:protected:ref:{ref}", protected),
                Derived("project:{project}:environment:{environment}", guarded),
            ),
        )
        return Trusted(issuer, self._keys(self.iss.rstrip("/") + "/oauth/discovery/keys"))


class Oidc(_Common, frozen=True, kw_only=True, tag_field="kind", tag="oidc"):
    """Any other OpenID provider, for people above all. `audience` is the client id that
    `modelvault login` uses, where that is what the provider writes into its tokens: a client of
    this vault's own, since tokens of a shared one could be shown here by other services.

    The principal is `NAME:SUB`, the groups those of `groups_claim`. `require` names further
    claims, and for each the values of which it must have one.
    """

    iss: _Text
    groups_claim: _Text | None = "groups"
    require: dict[_Text, Annotated[tuple[_Text, ...], Meta(min_length=1)]] = {}

    def trusted(self) -> Trusted:
        """The issuer, and its keys."""
        fields = tuple(
            _field(f"required_{number}", _LINE, claim, values=values)
            for number, (claim, values) in enumerate(self.require.items())
        )
        issuer = self._issuer(self.iss, groups_claim=self.groups_claim, fields=fields)
        return Trusted(issuer, self._keys(None))


def read(told: Iterable[Mapping[str, Any]], folder: Path = Path()) -> tuple[Trusted, ...]:
    """The issuers of a configuration, relative paths counted from `folder`.

    One that says no `kind` is of the kind `oidc`.

    Raises InvalidRequest (`bad_issuers`) that names the issuer and the field.
    """
    found = tuple(_one(dict(one), folder) for one in told)
    by_iss(one.issuer for one in found)
    return found


def _one(told: dict[str, Any], folder: Path) -> Trusted:
    def decode(kind: type, value: object) -> object:
        if kind is Path and isinstance(value, str) and value:
            return folder / Path(value).expanduser()
        raise ValueError("a path is a text that isn't empty")

    try:
        kind: Kubernetes | GitHub | GitLab | Oidc = msgspec.convert(
            {"kind": "oidc"} | told, Kubernetes | GitHub | GitLab | Oidc, dec_hook=decode
        )
        return kind.trusted()
    except (ValueError, msgspec.ValidationError) as error:
        raise InvalidRequest(
            "bad_issuers",
            f"issuer {told.get('name')!r} of the configuration can't be used: {error}",
            "see docs/identity.md for all settings of issuers",
        ) from None


def _field(
    name: str, pattern: str, *path: str, values: tuple[str, ...] = (), optional: bool = False
) -> Field:
    return Field(name=name, path=path, pattern=pattern, values=values, optional=optional)
