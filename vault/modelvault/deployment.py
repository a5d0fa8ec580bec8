"""What `modelvault serve` is told: one TOML file, parsed strictly into values.

The file holds no secrets, only the names of files that do: it may be looked at, kept in a
repository and shown in an error. Relative paths count from the file's own folder. Names that
nobody reads are refused: a mistyped setting must not pass for one that is in force.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from modelvault.errors import InvalidRequest
from modelvault.manifest import MAX_SEGMENT, MIN_SEGMENT, DigestAlgorithm

MAX_FILE = 1 << 20
_ISSUER_PATHS = frozenset({"ca", "jwks_file", "token_file"})

Role = Literal["broker", "steward", "both"]
Text = Annotated[str, Meta(min_length=1, max_length=1024)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=3600)]


class Vault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which vault this is: its trust file names it. `segment_length` in bytes."""

    trust: Path
    digest_alg: DigestAlgorithm = "blake3"
    segment_length: Annotated[int, Meta(ge=MIN_SEGMENT, le=MAX_SEGMENT)] = 1 << 20


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The server's own certificate chain and key in PEM; with `client_ca` every client must show a
    certificate that it signed, unless `client_optional`."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    client_optional: bool = False


class Serve(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where and how to listen. Without `tls` only a loopback `host` is taken.

    `threads` is both the requests served at once and the ledger's connections. `proxies` are the
    networks whose X-Forwarded-For is believed. `metrics_port` opens a port of its own on
    `metrics_host`. `notice_s` is how long a stop says no to readiness before the port closes,
    `drain_s` how long it waits for what has begun.
    """

    host: Text = "127.0.0.1"
    port: Port = 8443
    role: Role = "both"
    tls: Tls | None = None
    threads: Annotated[int, Meta(ge=1, le=256)] = 16
    proxies: tuple[Text, ...] = ()
    metrics_host: Text = "127.0.0.1"
    metrics_port: Port | None = None
    notice_s: Annotated[float, Meta(ge=0, le=300)] = 0.0
    drain_s: Seconds = 30.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class AppRole(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Vault's AppRole: a role id, and the file that holds its secret id."""

    role_id: Text
    secret_id_file: Path
    mount: Text = "approle"


class Workload(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A login by the workload's own token, read anew for each login."""

    role: Text
    token_file: Path
    mount: Text


class Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How to log in at HashiCorp Vault: exactly one of these."""

    approle: AppRole | None = None
    kubernetes: Workload | None = None
    jwt: Workload | None = None
    token_file: Path | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in msgspec.structs.astuple(self)) != 1:
            raise ValueError("name exactly one of approle, kubernetes, jwt, token_file")


class Hcvault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """HashiCorp Vault, or OpenBao. A role that isn't served here needs no login."""

    address: Text
    mount: Text = "modelvault"
    namespace: Text | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    timeout_s: Seconds = 5.0
    broker: Login | None = None
    steward: Login | None = None


class LedgerAt(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """PostgreSQL, as SQLAlchemy names it and without a password: that is in `password_file`."""

    url: Text
    password_file: Path | None = None
    deadline_s: Seconds = 5.0


class S3(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A bucket. Without `credentials_file` (an AWS credentials file) the SDK's own ways count.

    `public_endpoint` is how clients reach the store, where that isn't how brokers do.
    """

    bucket: Text
    prefix: str = ""
    endpoint: Text | None = None
    public_endpoint: Text | None = None
    region: Text = "us-east-1"
    ca: Path | None = None
    credentials_file: Path | None = None
    path_style: bool = False
    encryption: Literal["AES256", "aws:kms"] | None = None
    kms_key: Text | None = None
    lock_mode: Literal["GOVERNANCE", "COMPLIANCE"] | None = None
    lock_days: Annotated[int, Meta(ge=1, le=36500)] | None = None
    timeout_s: Seconds = 10.0


class Opa(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An OPA server, and the file with the token that it takes."""

    address: Text
    token_file: Path | None = None
    ca: Path | None = None
    deadline_s: Seconds = 1.0


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who decides: an OPA server, or without one the engine in this process.

    OPA fetches the bundle from the brokers, showing what `bundle_token_file` holds.
    """

    opa: Opa | None = None
    bundle_token_file: Path | None = None


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Requests a minute, over all brokers: of one principal, and failed logins of one address."""

    principal_per_minute: Annotated[int, Meta(ge=1)] = 6000
    failures_per_minute: Annotated[int, Meta(ge=1)] = 60


class Copies(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Other vaults: trust files of those that versions may be copied to and taken in from. Whoever
    may change one of these files decides whose keys are believed."""

    trusted: tuple[Path, ...] = ()


class Deployment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file. `issuers` are as `identity.presets` reads them."""

    vault: Vault
    serve: Serve = Serve()
    keys: Hcvault
    ledger: LedgerAt
    objects: S3
    policy: Policy = Policy()
    issuers: Annotated[tuple[dict[str, Any], ...], Meta(min_length=1)]
    limits: Limits = Limits()
    copies: Copies = Copies()


def read(path: Path) -> Deployment:
    """The file's values, with all paths absolute.

    Raises InvalidRequest (`bad_deployment`) that names the field.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise _bad(path, os.strerror(error.errno or 0)) from None
    if len(data) > MAX_FILE:
        raise _bad(path, f"more than {MAX_FILE} bytes")
    folder = path.parent.absolute()

    def decode(kind: type, value: object) -> object:
        if kind is Path and isinstance(value, str) and value:
            return folder / Path(value).expanduser()
        raise ValueError("a path is a text that isn't empty")

    try:
        told = msgspec.convert(tomllib.loads(data.decode("utf-8")), Deployment, dec_hook=decode)
    except (ValueError, msgspec.ValidationError) as error:
        raise _bad(path, str(error)) from None
    issuers = tuple(_with_paths(issuer, folder) for issuer in told.issuers)
    return msgspec.structs.replace(told, issuers=issuers)


def _with_paths(issuer: dict[str, Any], folder: Path) -> dict[str, Any]:
    """An issuer's table, not examined here, with its paths made absolute."""
    return {
        name: str(folder / Path(value).expanduser())
        if name in _ISSUER_PATHS and isinstance(value, str) and value
        else value
        for name, value in issuer.items()
    }


def secret_text(path: Path) -> str:
    """What a file of one secret holds, without the line's end.

    Raises InvalidRequest (`bad_secret_file`), which shows its name and never its contents.
    """
    try:
        text = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = os.strerror(error.errno or 0) if isinstance(error, OSError) else "not plain text"
        raise InvalidRequest(
            "bad_secret_file",
            f"can't read {path}: {why}",
            "check the path, and that this process may read it",
        ) from None
    if not text or not text.isprintable():
        raise InvalidRequest("bad_secret_file", f"{path} holds no secret", "write one line into it")
    return text


def _bad(path: Path, why: str) -> InvalidRequest:
    return InvalidRequest(
        "bad_deployment",
        f"the deployment file {path} can't be used: {why}",
        "see docs/operations.md for all settings",
    )
