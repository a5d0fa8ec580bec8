"""What each identity at the key service must not do: tried, and refused by its ACL policy."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
import requests

from modelvault.crypto import derive
from support.servers.hcvault import ROOT, DevServer, Mounted

KEK = derive.kek_name("ab" * 16, "default", "minilm")
CONTEXT = base64.b64encode(bytes(32)).decode()


@pytest.fixture(scope="module", params=["hcvault", "openbao"])
def mounted(request: pytest.FixtureRequest) -> Iterator[Mounted]:
    server = DevServer(request.param)
    made = server.mounted()
    _ask(made, ROOT, "POST", f"keys/{KEK}", {"type": "aes256-gcm96", "derived": True})
    yield made
    made.close()
    server.stop()


@pytest.fixture(scope="module")
def tokens(mounted: Mounted) -> dict[str, str]:
    roles = ("broker", "steward", "destroyer", "auditor")
    return {role: mounted.token(f"{mounted.server.mount}-{role}") for role in roles}


def _ask(mounted: Mounted, token: str, method: str, path: str, body: dict | None = None) -> int:
    place = (
        path if path.startswith(("sys/", "auth/", "other")) else f"{mounted.server.mount}/{path}"
    )
    return requests.request(
        method,
        f"{mounted.dev.address}/v1/{place}",
        headers={"X-Vault-Token": token},
        json=body,
        timeout=10,
    ).status_code


DATAKEY = ("POST", f"datakey/plaintext/{KEK}", {"context": CONTEXT})
FORBIDDEN = {
    "broker": [
        ("POST", f"keys/{KEK}2", {"type": "aes256-gcm96", "derived": True}),
        ("POST", f"keys/{KEK}/rotate", {}),
        ("POST", f"keys/{KEK}/config", {"min_decryption_version": 1}),
        ("POST", f"keys/{KEK}/config", {"deletion_allowed": True}),
        ("POST", f"keys/{KEK}/trim", {"min_available_version": 1}),
        ("DELETE", f"keys/{KEK}", None),
        ("GET", f"keys/{KEK}", None),
        ("GET", f"export/encryption-key/{KEK}", None),
        ("GET", f"backup/{KEK}", None),
        ("POST", f"rewrap/{KEK}", {"ciphertext": "x", "context": CONTEXT}),
        ("POST", f"encrypt/{KEK}", {"plaintext": ""}),
        ("POST", f"encrypt/{KEK}", {"plaintext": "", "context": CONTEXT, "key_version": 1}),
        ("POST", f"encrypt/{KEK}", {"batch_input": [{"plaintext": "", "context": CONTEXT}]}),
        ("POST", f"encrypt/{KEK}11", {"plaintext": "", "context": CONTEXT}),  # makes no key
        ("POST", f"decrypt/{KEK}", {"batch_input": [{"ciphertext": "x", "context": CONTEXT}]}),
        ("POST", f"datakey/plaintext/{KEK}", {}),
        ("POST", "sign/sign-record", {"input": ""}),
        ("POST", "sign/sign-bundle", {"input": ""}),
        ("POST", "sign/sign-log", {"input": ""}),
        ("POST", "sign/sign-opa", {"input": ""}),
        ("POST", "sign/sign-manifest", {"input": "", "key_version": 1}),
        ("GET", "sys/policies/acl", None),
        ("POST", "other/datakey/plaintext/x", {"context": CONTEXT}),
        ("POST", "auth/token/create", {}),
    ],
    "steward": [
        DATAKEY,
        ("POST", f"datakey/wrapped/{KEK}", {"context": CONTEXT}),
        ("POST", f"decrypt/{KEK}", {"ciphertext": "x", "context": CONTEXT}),
        ("GET", f"export/encryption-key/{KEK}", None),
        ("GET", f"backup/{KEK}", None),
        ("POST", f"keys/{KEK}3", {"type": "aes256-gcm96", "derived": True, "exportable": True}),
        ("POST", f"keys/{KEK}4",
         {"type": "aes256-gcm96", "derived": True, "allow_plaintext_backup": True}),
        ("POST", f"keys/{KEK}5", {"type": "rsa-2048"}),
        ("POST", f"keys/{KEK}6", {"type": "aes256-gcm96", "derived": False}),
        ("POST", f"keys/{KEK}7",
         {"type": "aes256-gcm96", "derived": True, "convergent_encryption": True}),
        ("POST", f"keys/{KEK}/config", {"exportable": True}),
        ("POST", f"keys/{KEK}/config", {"allow_plaintext_backup": True}),
        ("POST", f"keys/{KEK}/config", {"deletion_allowed": True}),
        ("POST", f"keys/{KEK}/config", {"auto_rotate_period": "24h"}),
        ("DELETE", f"keys/{KEK}", None),
        ("POST", "keys/anything-else", {"type": "aes256-gcm96"}),
        ("POST", "sign/sign-manifest", {"input": ""}),
        ("POST", "keys/sign-record/rotate", {}),
        ("POST", "keys/sign-record/config", {"deletion_allowed": True}),
        ("POST", "config/keys", {"disable_upsert": False}),
        ("GET", "sys/policies/acl", None),
    ],
    "destroyer": [
        DATAKEY,
        ("POST", f"decrypt/{KEK}", {"ciphertext": "x", "context": CONTEXT}),
        ("POST", f"keys/{KEK}/config", {"exportable": True}),
        ("POST", f"keys/{KEK}/config", {"min_decryption_version": 1}),
        ("POST", "keys/sign-manifest/config", {"deletion_allowed": True}),
        ("DELETE", "keys/sign-manifest", None),
        ("POST", "sign/sign-manifest", {"input": ""}),
    ],
    "auditor": [
        DATAKEY,
        ("POST", f"decrypt/{KEK}", {"ciphertext": "x", "context": CONTEXT}),
        ("POST", f"keys/{KEK}/rotate", {}),
        ("POST", f"keys/{KEK}8", {"type": "aes256-gcm96"}),
        ("DELETE", f"keys/{KEK}", None),
        ("POST", "sign/sign-log", {"input": ""}),
        ("POST", "config/keys", {"disable_upsert": False}),
        ("GET", f"export/encryption-key/{KEK}", None),
    ],
}  # fmt: skip
ALLOWED = {
    "broker": [
        DATAKEY,
        ("POST", f"encrypt/{KEK}", {"plaintext": CONTEXT, "context": CONTEXT}),
        ("POST", "sign/sign-manifest", {"input": ""}),
        ("GET", "keys/sign-manifest", None),
        ("POST", "auth/token/renew-self", {}),
    ],
    "steward": [
        ("POST", f"keys/{KEK}9", {"type": "aes256-gcm96", "derived": True}),
        ("POST", f"keys/{KEK}/rotate", {}),
        ("GET", f"keys/{KEK}", None),
        ("POST", "sign/sign-record", {"input": ""}),
    ],
    "destroyer": [("GET", f"keys/{KEK}", None)],
    "auditor": [("GET", f"keys/{KEK}", None), ("GET", "config/keys", None)],
}


@pytest.mark.parametrize(
    ("role", "request_"),
    [(role, each) for role, listed in FORBIDDEN.items() for each in listed],
    ids=lambda value: value if isinstance(value, str) else f"{value[0]} {value[1]} {value[2]}",
)
def test_refused(mounted: Mounted, tokens: dict[str, str], role: str, request_: tuple) -> None:
    assert _ask(mounted, tokens[role], *request_) == 403


@pytest.mark.parametrize(
    ("role", "request_"),
    [(role, each) for role, listed in ALLOWED.items() for each in listed],
    ids=lambda value: value if isinstance(value, str) else f"{value[0]} {value[1]}",
)
def test_taken(mounted: Mounted, tokens: dict[str, str], role: str, request_: tuple) -> None:
    """Without this, a mistyped path above would pass for a refusal."""
    assert _ask(mounted, tokens[role], *request_) in {200, 204}


def test_a_kek_is_never_made_on_the_way(mounted: Mounted) -> None:
    """Not even by somebody who may do everything."""
    place = f"datakey/plaintext/{KEK[:-1]}0"
    assert _ask(mounted, ROOT, "POST", place, {"context": CONTEXT}) == 400
    assert _ask(mounted, ROOT, "GET", f"keys/{KEK[:-1]}0") == 404


def test_only_the_destroyer_destroys(mounted: Mounted, tokens: dict[str, str]) -> None:
    doomed = f"{KEK}0"
    _ask(mounted, ROOT, "POST", f"keys/{doomed}", {"type": "aes256-gcm96", "derived": True})
    assert _ask(mounted, tokens["destroyer"], "DELETE", f"keys/{doomed}") == 400  # not allowed yet
    body = {"deletion_allowed": True}
    assert _ask(mounted, tokens["destroyer"], "POST", f"keys/{doomed}/config", body) in {200, 204}
    assert _ask(mounted, tokens["destroyer"], "DELETE", f"keys/{doomed}") == 204
    assert _ask(mounted, ROOT, "GET", f"keys/{doomed}") == 404
