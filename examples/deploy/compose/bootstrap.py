"""What has to be there before `docker compose up`: run inside the image by compose.yaml.

bootstrap.py prepare STATE                  certificates, passwords, an issuer's key, folders
bootstrap.py found broker.toml ROOT_TOKEN   the vault, its bucket, and OPA's configuration
bootstrap.py token SUBJECT [GROUP …]        a token for an hour, in place of an identity provider
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import subprocess
import sys
import time
import tomllib
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import jwt
from botocore.config import Config
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from modelvault.policy import opa_server

ADMINS = "idp:vault-admins"
ISS = "https://issuer.invalid"
SERVERS = {
    "broker": ("broker", "broker-1", "broker-2", "localhost"),
    "hcvault": ("hcvault", "localhost"),
    "opa": ("opa",),
    "postgresql": ("postgresql",),
    "s3": ("s3", "localhost"),
}


def prepare(state: Path) -> None:
    """Everything in `state` that isn't made by a server. What is there already stays."""
    os.umask(0o077)
    if (state / "ca.pem").exists():
        print(f"{state} is prepared")
        return
    for name in ("secrets", "tokens", "modelvault", "hcvault", "postgresql", "s3"):
        (state / name).mkdir(exist_ok=True)
    kept = state / "secrets"
    access, secret = "modelvault", secrets.token_urlsafe(24)
    for name in ("ledger", "opa", "opa-bundle"):
        write(kept / name, secrets.token_urlsafe(24))
    write(
        kept / "s3-credentials",
        f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n",
    )
    identity = {
        "name": "modelvault",
        "credentials": [{"accessKey": access, "secretKey": secret}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    write(kept / "s3-server", json.dumps({"identities": [identity]}))
    digest = hashlib.sha256((kept / "opa").read_bytes()).hexdigest()
    write(state / "opa.env", f"MODELVAULT_OPA_TOKEN_SHA256={digest}\n")
    issuer(state)
    certificates(state)
    print(f"{state} is prepared; {state.name}/issuer.key and {state.name}/ca.key can make anybody")


def found(deployment: Path, root_token: Path) -> None:
    """The bucket, the vault, and how OPA must run to decide for it."""
    told = tomllib.loads(deployment.read_text())
    bucket(told["objects"])
    done = subprocess.run(
        ["modelvault", "found", deployment, "--hcvault-token-file", root_token,
         "--admins", ADMINS, "--json"],
        check=False, stdout=subprocess.PIPE,
    )  # fmt: skip
    if done.returncode != 0:
        sys.exit(done.returncode)
    made = json.loads(done.stdout)
    config = opa_server.config(
        "https://broker:8443",
        made["opa_key"],
        token_file=Path("/run/secrets/opa-bundle"),
        ca=Path("/etc/modelvault/ca.pem"),
    )
    write(Path(told["vault"]["trust"]).with_name("opa.json"), json.dumps(config, indent=2))
    print(f"the vault {made['vault']} is founded; its admins are {', '.join(made['admins'])}")


def bucket(objects: dict[str, Any]) -> None:
    """Make it, unless it is there."""
    os.environ["AWS_SHARED_CREDENTIALS_FILE"] = objects["credentials_file"]
    client = boto3.client(
        "s3",
        endpoint_url=objects["endpoint"],
        verify=objects["ca"],
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )
    with suppress(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=objects["bucket"])


def token(subject: str, *groups: str) -> None:
    """Print a token of the issuer that broker.toml names, for this vault."""
    vault = json.loads(Path("/etc/modelvault/trust.json").read_bytes())["vault"]
    key = Path("/run/secrets/issuer.key").read_bytes()
    now = int(time.time())
    claims = {
        "iss": ISS, "aud": f"modelvault:{vault}", "sub": subject, "groups": groups,
        "iat": now, "exp": now + 3600,
    }  # fmt: skip
    print(jwt.encode(claims, key, "ES256", {"kid": "1"}))


def issuer(state: Path) -> None:
    """A signing key, and its public half as a JWKS."""
    key = ec.generate_private_key(ec.SECP256R1())
    write_key(state / "issuer.key", key)
    point = key.public_key().public_numbers()
    half = {name: number(value) for name, value in (("x", point.x), ("y", point.y))}
    jwk = {"kty": "EC", "crv": "P-256", "use": "sig", "kid": "1", **half}
    write(state / "issuer.jwks", json.dumps({"keys": [jwk]}))


def certificates(state: Path) -> None:
    """A CA of this deployment's own, and a certificate for each server that it has."""
    authority = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "modelvault compose CA")])
    root = (
        builder(name, name, authority.public_key(), 3650)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(signs=True), critical=True)
        .sign(authority, hashes.SHA256())
    )
    write_key(state / "ca.key", authority)
    write(state / "ca.pem", pem(root))
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    for server, names in SERVERS.items():
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, server)])
        leaf = (
            builder(subject, name, key.public_key(), 820)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage(signs=False), critical=True)
            .add_extension(signer, critical=False)
            .add_extension(
                x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False
            )
            .sign(authority, hashes.SHA256())
        )
        write(state / "secrets" / f"{server}.pem", pem(leaf))
        write_key(state / "secrets" / f"{server}.key", key)


def builder(
    subject: x509.Name, by: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs, key_cert_sign=signs, crl_sign=signs,
        content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def number(value: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes(32, "big")).rstrip(b"=").decode()


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    form = serialization.PrivateFormat.PKCS8
    text = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    write(path, text.decode())


def write(path: Path, text: str) -> None:
    path.write_text(text)


if __name__ == "__main__":
    os.umask(0o077)
    match sys.argv[1:]:
        case ["prepare", state]:
            prepare(Path(state))
        case ["found", deployment, root_token]:
            found(Path(deployment), Path(root_token))
        case ["token", subject, *groups]:
            token(subject, *groups)
        case _:
            print(
                "usage: bootstrap.py prepare STATE | found FILE TOKEN | token SUBJECT GROUP...",
                file=sys.stderr,
            )
            sys.exit(2)
