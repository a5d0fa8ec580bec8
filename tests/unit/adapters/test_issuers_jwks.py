"""JWKS issuers against a real server on loopback."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import trustme

from modelvault import clock
from modelvault.adapters.issuers_jwks import JwksIssuers, fetching
from modelvault.adapters.issuers_jwks.document import MAX_BYTES
from modelvault.adapters.issuers_jwks.fetching import NotFetched, fetcher
from modelvault.errors import AuthenticationError, InvalidRequest, Unavailable
from modelvault.identity import tokens
from modelvault.identity.presets import KeySource, Trusted
from modelvault.ports.identity import VerifyingKey
from support.servers.jwks import JwksServer, body, document, jwk
from support.servers.process import free_port
from support.tokens import (
    CI,
    CLUSTER,
    ED,
    NOW,
    OTHER_ED,
    P384,
    VAULT,
    by_hand,
    by_pyjwt,
    claims,
    pem,
)

GOOD = document(jwk(ED, "ed"))
KEY = VerifyingKey("EdDSA", pem(ED))
PATIENCE_S = 20


@pytest.fixture
def server() -> Iterator[JwksServer]:
    with JwksServer(body(GOOD)) as running:
        yield running


@contextmanager
def issuers(*trusted: Trusted) -> Iterator[JwksIssuers]:
    made = JwksIssuers(trusted, clock.boot_ms)
    try:
        yield made
    finally:
        made.close()


def at(url: str, **more: object) -> Trusted:
    return Trusted(CI, KeySource(url=url, **more))


def fetch(url: str, **more: object) -> bytes:
    return fetcher(at(url, **more), clock.boot_ms)()


def not_fetched(url: str, **more: object) -> str:
    with pytest.raises(NotFetched) as caught:
        fetch(url, **more)
    return str(caught.value)


def test_a_token_is_verified_with_fetched_keys(server: JwksServer) -> None:
    with issuers(at(server.url)) as keys:
        for _ in range(50):
            who = tokens.verify(by_pyjwt(claims()), (CI,), keys, NOW, vault=VAULT)
            assert who.id == "ci:job-7"
        assert len(server.asked) == 1
        assert server.asked[0]["Accept-Encoding"] == "identity"
        assert "Authorization" not in server.asked[0]


def test_each_issuer_has_its_own_keys(server: JwksServer) -> None:
    with JwksServer(body(document(jwk(P384, "only")))) as second:
        cluster = Trusted(CLUSTER, KeySource(url=second.url))
        with issuers(at(server.url), cluster) as keys:
            assert keys.key(CI.iss, "ed") == KEY
            assert keys.key(CLUSTER.iss, None).algorithm == "ES384"
            for iss, kid in [(CI.iss, "only"), (CLUSTER.iss, "ed"), ("https://evil.example", "ed")]:
                with pytest.raises(AuthenticationError) as caught:
                    keys.key(iss, kid)
                assert caught.value.code == "unknown_signing_key"


def test_a_flood_of_forged_tokens_makes_no_request(server: JwksServer) -> None:
    with issuers(at(server.url, unknown_s=60)) as keys:
        keys.key(CI.iss, "ed")

        def flood(first: int) -> None:
            for number in range(first, first + 250):
                header = {"alg": "EdDSA", "kid": f"made-up-{number}"}
                forged = by_hand(claims(), header, OTHER_ED.sign)
                with pytest.raises(AuthenticationError):
                    tokens.verify(forged, (CI,), keys, NOW, vault=VAULT)

        threads = [threading.Thread(target=flood, args=(n * 1000,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.asked) == 1
        assert tokens.verify(by_pyjwt(claims()), (CI,), keys, NOW, vault=VAULT)


@pytest.mark.parametrize("header", ["jku", "x5u"])
def test_nothing_is_fetched_from_where_a_token_points(server: JwksServer, header: str) -> None:
    with JwksServer(body(document(jwk(OTHER_ED, "ed")))) as evil:
        forged = by_hand(claims(), {"alg": "EdDSA", "kid": "x", header: evil.url}, OTHER_ED.sign)
        with issuers(at(server.url)) as keys, pytest.raises(AuthenticationError):
            tokens.verify(forged, (CI,), keys, NOW, vault=VAULT)
        assert evil.asked == []


def test_an_issuer_that_goes_away_and_comes_back(server: JwksServer) -> None:
    with issuers(at(server.url, refresh_s=0.05, stale_s=60, unknown_s=0.05)) as keys:
        assert keys.key(CI.iss, "ed") == KEY
        server.answer = body(b"down", 503)
        asked = len(server.asked)
        eventually(lambda: len(server.asked) > asked + 1)
        assert keys.key(CI.iss, "ed") == KEY
        server.answer = body(document(jwk(OTHER_ED, "new")))
        eventually(lambda: has(keys, "new"))
        assert not has(keys, "ed")


def test_nobody_listens() -> None:
    with issuers(at(f"http://127.0.0.1:{free_port()}/keys")) as keys:
        with pytest.raises(Unavailable) as caught:
            keys.key(CI.iss, "ed")
        assert caught.value.code == "issuer_unavailable"


def has(keys: JwksIssuers, kid: str) -> bool:
    try:
        keys.key(CI.iss, kid)
    except (AuthenticationError, Unavailable):
        return False
    return True


def eventually(true: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


# One fetch


def test_what_is_no_answer(server: JwksServer) -> None:
    answers = {
        "status 404": body(b"", 404),
        "status 500": body(GOOD, 500),
        "status 302": body(b"", 302, Location=server.url),
        "status 204": body(b"", 204),
        f"more than {MAX_BYTES} bytes": body(b"x" * (MAX_BYTES + 1)),
        "no usable answer (ProtocolError)": body(GOOD, Content_Length="9999"),
    }
    for why, answer in answers.items():
        server.answer = answer
        assert not_fetched(server.url) == why
    assert len(server.asked) == len(answers)  # nothing is tried twice, nothing followed


def test_a_whole_mebibyte_is_read(server: JwksServer) -> None:
    server.answer = body(b" " * MAX_BYTES)
    assert len(fetch(server.url)) == MAX_BYTES


def test_a_compressed_answer_isnt_unpacked(server: JwksServer) -> None:
    packed = b"\x1f\x8b\x08\x00"
    server.answer = body(packed, Content_Encoding="gzip")
    assert fetch(server.url) == packed


def test_an_answer_that_drips(server: JwksServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "WHOLE_MS", 100)

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        for _ in range(500):
            request.wfile.write(b" ")
            time.sleep(0.01)

    server.answer = drip
    assert not_fetched(server.url) == "the answer takes too long"


def test_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "READ_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/keys"
        assert not_fetched(url) == "no answer in time"


def test_a_document_that_isnt_one_leaves_no_keys(server: JwksServer) -> None:
    server.answer = body(b"<html>log in first</html>")
    with issuers(at(server.url)) as keys, pytest.raises(Unavailable):
        keys.key(CI.iss, "ed")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[JwksServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with JwksServer(body(GOOD), context) as running:
        yield running


def test_a_custom_ca(secure: JwksServer, authority: trustme.CA, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    assert fetch(secure.url, ca=ca) == GOOD
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    assert not_fetched(secure.url, ca=other) == "no usable answer (SSLError)"
    assert not_fetched(secure.url) == "no usable answer (SSLError)"
    assert len(secure.asked) == 1


def test_a_token_for_the_fetch(server: JwksServer, tmp_path: Path) -> None:
    path = tmp_path / "token"
    for text in ("first", "second"):
        path.write_text(text + "\n")
        fetch(server.url, token_file=path)
        assert server.asked[-1]["Authorization"] == f"Bearer {text}"
    path.write_bytes(b"sch\xc3\xb6n")
    assert not_fetched(server.url, token_file=path) == "no usable answer (UnicodeDecodeError)"
    path.unlink()
    assert "No such file" in not_fetched(server.url, token_file=path)
    assert len(server.asked) == 2


def test_the_environments_proxy_isnt_used(
    server: JwksServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert fetch(server.url) == GOOD


@pytest.mark.parametrize(
    "url",
    [
        "http://ci.example/keys",
        "http://10.0.0.1/keys",
        "http://127.0.0.1.evil.example/keys",
        "http://localhost.evil.example/keys",
        "https://user@ci.example/keys",
        "https://ci.example/keys#k",
        "https:///keys",
        "https://[::1/keys",
        "file:///etc/passwd",
        "ftp://ci.example/keys",
        "keys",
        "",
        None,
    ],
)
def test_addresses_that_arent_taken(url: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        JwksIssuers([Trusted(CI, KeySource(url=url))], clock.boot_ms)
    assert caught.value.code == "bad_issuers"
    assert "'ci'" in caught.value.message


@pytest.mark.parametrize(
    "url",
    ["https://ci.example/k?a=b", "http://localhost:80/k", "http://[::1]/k", "http://127.9.9.9/"],
)
def test_addresses_that_are(url: str) -> None:
    fetcher(at(url), clock.boot_ms)


def test_a_ca_that_cant_be_read(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("not a certificate")
    for ca in (tmp_path / "gone.pem", broken):
        with pytest.raises(InvalidRequest) as caught:
            fetcher(at("https://ci.example/keys", ca=ca), clock.boot_ms)
        assert str(ca) in caught.value.message


def test_keys_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(GOOD)
    source = KeySource(file=path, refresh_s=0.05, unknown_s=0.05)
    with issuers(Trusted(CI, source)) as keys:
        assert keys.key(CI.iss, "ed") == KEY
        path.unlink()
        time.sleep(0.1)
        assert keys.key(CI.iss, "ed") == KEY
        path.write_text(json.dumps({"keys": [jwk(OTHER_ED, "new")]}))
        eventually(lambda: has(keys, "new"))
    path.write_bytes(b"x" * (MAX_BYTES + 1))
    with pytest.raises(NotFetched, match="larger"):
        fetcher(Trusted(CI, source), clock.boot_ms)()
