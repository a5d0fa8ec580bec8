"""How an OPA server must run to decide for a vault: its configuration and its command line."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import modelvault_policies
from modelvault.policy import archive
from modelvault.policy.bundle import MAX_BYTES

BUNDLE = "modelvault"
RESOURCE = "/v1/policy/bundle"
TOKEN_HASH = "MODELVAULT_OPA_TOKEN_SHA256"  # noqa: S105  a variable's name


def config(
    broker: str, public_pem: str, *, token_file: Path | None = None, ca: Path | None = None
) -> dict[str, Any]:
    """OPA's configuration: the bundle comes from the brokers at `broker`, and only with the vault's
    signature (`public_pem`, of ports.keys.BundleSigner).

    `token_file` holds what the brokers want to be shown, `ca` the PEM that they are known by. The
    broker answers when there is a new policy, so it is in force everywhere within a moment.
    """
    service: dict[str, Any] = {"url": broker, "response_header_timeout_seconds": 40}
    if token_file is not None:
        service["credentials"] = {"bearer": {"token_path": str(token_file)}}
    if ca is not None:
        service["tls"] = {"ca_cert": str(ca)}
    key = {"algorithm": "ES256", "key": public_pem, "scope": archive.SCOPE}
    return {
        "services": {BUNDLE: service},
        "keys": {archive.KEY_ID: key},
        "bundles": {
            BUNDLE: {
                "service": BUNDLE,
                "resource": RESOURCE,
                "signing": {"keyid": archive.KEY_ID, "scope": archive.SCOPE},
                "size_limit_bytes": 2 * MAX_BYTES,
                "polling": {
                    "min_delay_seconds": 1,
                    "max_delay_seconds": 2,
                    "long_polling_timeout_seconds": 20,
                },
            }
        },
        "decision_logs": {"console": True},
    }


def command(
    opa: Path,
    address: str,
    config_file: Path,
    *,
    certificate: Path | None = None,
    key: Path | None = None,
) -> Sequence[str]:
    """The command line of `opa`, to listen on `address` (host:port).

    Its environment needs `environment(token)`.
    """
    tls = (
        ("--tls-cert-file", str(certificate), "--tls-private-key-file", str(key))
        if certificate and key
        else ()
    )
    return (
        str(opa), "run", "--server", "--addr", address, "--config-file", str(config_file),
        "--authentication=token", "--authorization=basic", "--skip-version-check",
        "--log-level=error", *tls, *map(str, system_policies()),
    )  # fmt: skip


def environment(token: str) -> dict[str, str]:
    """What OPA's environment must say, so that it takes `token` from whoever asks."""
    return {TOKEN_HASH: hashlib.sha256(token.encode()).hexdigest()}


def system_policies() -> tuple[Path, ...]:
    """The files that say who may ask OPA for what, and what its log leaves out."""
    folder = Path(modelvault_policies.__file__).with_name("opa")
    return tuple(sorted(folder.glob("*.rego")))
