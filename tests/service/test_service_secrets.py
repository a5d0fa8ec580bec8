"""Secrets stay in: what was in use is looked for in everything that anybody writes down."""

from __future__ import annotations

import base64
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from modelvault.adapters.keys_hcvault import Connection, HcvaultKeys
from modelvault.adapters.keys_hcvault.setup import GivenToken
from modelvault.adapters.ledger_sql import SqlLedger
from modelvault.clock import utc_ms
from modelvault.crypto import derive
from modelvault.errors import ModelVaultError
from modelvault.ports.keys import WrappedKey
from support.servers.hcvault import ROOT


def forms(secret: bytes) -> list[bytes]:
    """A secret as it is, and as it might be written."""
    standard = base64.b64encode(secret).rstrip(b"=")
    return [secret, standard, base64.urlsafe_b64encode(secret).rstrip(b"="), secret.hex().encode()]


def found(places: list[Path], secrets: dict[str, bytes], spare: set[Path]) -> set[tuple[str, str]]:
    """(secret's name, file's name) of all that is found; `spare` are files that are to hold it."""
    hits: set[tuple[str, str]] = set()
    wanted = [(name, form) for name, secret in secrets.items() for form in forms(secret)]
    for place in places:
        for path in place.rglob("*"):
            if path in spare or not path.is_file():
                continue
            with suppress(OSError):
                content = path.read_bytes()
                hits |= {(name, str(path)) for name, form in wanted if form in content}
    return hits


def data_keys(stack, name: str) -> dict[str, bytes]:
    """The plain keys of a model, which only the key service and the broker know."""
    ledger = SqlLedger(stack.postgresql.url(stack.database), utc_ms)
    vault = stack.founded.vault
    artifact = ledger.version("default", name, 1).artifact
    rows = {
        "DEK": ledger.key(artifact),
        "content key": ledger.key(derive.content_artifact(vault, "default", name)),
    }
    ledger.close()
    keys = HcvaultKeys(Connection(stack.server, GivenToken(token=ROOT)))
    kek = derive.kek_name(vault, "default", name)
    plain = {
        each: keys.unwrap(
            kek,
            WrappedKey(row.wrapped, row.kek_version),
            derive.key_context(vault, "default", name, row.artifact),
        )
        for each, row in rows.items()
    }
    plain["file key"] = derive.file_key(plain["DEK"], artifact, "model.safetensors")
    return {each: bytes(key.reveal()) for each, key in plain.items()}


def test_nothing_is_written_down(stack, session, admin, name, model, tmp_path) -> None:
    admins = stack.admin()
    tokens = {
        "admin's token": admins,
        "job's token": stack.token("job", "inference"),
        "stranger's token": stack.token("eve"),
        "old token": stack.token("job", "inference", iat=1_700_000_000, exp=1_700_000_900),
    }
    admin = session(admins)
    admin.create(name, classification="restricted")
    admin.push(model, f"{name}:prod")
    for who, purpose in (
        ("job's token", "inference"), ("job's token", "export"), ("stranger's token", "inference"),
        ("old token", "inference"),
    ):  # fmt: skip
        for broker in (0, 1):
            with suppress(ModelVaultError):
                session(tokens[who], broker).load(name, purpose=purpose).close()
    admin.rotate(name)
    with suppress(ModelVaultError):
        session("not.a.token" + "x" * 100).list()
    by_query = f"{stack.urls[0]}/v1/whoami?token={admins}"
    asked = [by_query, *(f"{url}/openapi.json" for url in stack.urls)]
    said = [requests.get(url, verify=str(stack.ca), timeout=5) for url in asked]
    weights = (model / "model.safetensors").read_bytes()
    # The signature of a token is what makes it one.
    secrets = {who: token.rsplit(".", 1)[1].encode() for who, token in tokens.items()}
    secrets |= data_keys(stack, name)
    secrets |= {
        f"weights at {at}": weights[at : at + 1024] for at in range(4096, len(weights), 300_000)
    }
    held = {path for path in (stack.folder / "secrets").rglob("*") if path.is_file()}
    secrets |= {path.name: path.read_bytes().strip() for path in held}
    secrets["S3 secret key"] = b"a-secret-key-of-the-tests-only"
    spare = held | {stack.s3.credentials}
    places = [stack.folder, stack.hcvault.folder, stack.postgresql.folder, stack.s3.folder]
    assert found(places, secrets, spare) == set()
    assert all(form not in answer.content for answer in said for form in secrets.values())

    for secret in secrets.values():  # and the search finds what is there to find
        planted = tmp_path / "search" / "planted"
        planted.parent.mkdir(exist_ok=True)
        for form in forms(secret):
            planted.write_bytes(b"before" + form + b"after")
            assert found([planted.parent], {"planted": secret}, set()) == {
                ("planted", str(planted))
            }


def test_debug_is_what_was_looked_through(stack, session, admin, name, model) -> None:
    """The logs of the brokers are there, with requests in them, at the lowest level."""
    admin.create(name, classification="internal")
    admin.push(model, name)
    token = stack.token("job", "inference")
    for number in (0, 1):
        session(token, number).load(name, purpose="inference").close()
        text = (stack.folder / f"broker-{number}.log").read_text()
        assert '"call": "lease"' in text
    assert 'log_level = "debug"' in stack.configs[0].read_text()
    assert "Decision Log" in (stack.folder / "opa.log").read_text()


@pytest.mark.parametrize("number", [0, 1])
def test_the_log_is_json_and_names_no_path(stack, number: int) -> None:
    import json

    lines = (stack.folder / f"broker-{number}.log").read_text().splitlines()
    for line in lines:
        assert {"at", "level", "logger", "message"} <= json.loads(line).keys()
        assert "/v1/" not in line
