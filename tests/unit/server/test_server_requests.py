"""Who asks, from where, and what."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from modelvault.server import requests
from modelvault.wire.calls import CALLS, LARGE, SMALL
from support.serving import Running
from support.stub_broker import StubBroker

ID = "0" * 32
RENEW = f"/v1/leases/{ID}/renew"
BODY = b'{"key_hash":"x"}'


@pytest.fixture(scope="module")
def behind(shared: tuple[StubBroker, Running]) -> Iterator[Running]:
    """A server that believes its proxies: loopback, and two networks."""
    proxies = tuple(map(ip_network, ("127.0.0.0/8", "10.0.0.0/8", "fd00::/8")))
    with Running(shared[0], proxies=proxies) as server:
        yield server


class TestTokens:
    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Authorization": "a.b.c"},
            {"Authorization": "Basic YTpi"},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer   "},
            {"Authorization": "Bearer a.b.c\r\nAuthorization: Bearer d.e.f"},
            {"Cookie": "token=a.b.c"},
        ],
    )
    def test_none_or_not_surely_one(
        self, running: Running, broker: StubBroker, headers: dict[str, str]
    ) -> None:
        answer = running.ask("GET", "/v1/whoami", token=None, headers=headers)
        assert (answer.status, answer.code) == (401, "no_token")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert broker.asked == []

    def test_the_scheme_in_any_case(self, running: Running, broker: StubBroker) -> None:
        headers = {"Authorization": "bEARER a.b.c"}
        assert running.ask("GET", "/v1/whoami", token=None, headers=headers).status == 200
        assert broker.callers[0].token == "a.b.c"

    def test_a_huge_one(self, running: Running) -> None:
        assert running.ask("GET", "/v1/whoami", token="a" * (16 << 10)).status == 200
        answer = running.ask("GET", "/v1/whoami", token="a" * ((16 << 10) + 1))
        assert (answer.status, answer.code) == (401, "token_too_large")

    @pytest.mark.parametrize("name", ["access_token", "token", "id_token", "Access_Token"])
    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [("GET", "/v1/models", None), ("GET", "/v1/whoami", None), ("POST", RENEW, BODY),
         ("DELETE", f"/v1/leases/{ID}", None)],
    )  # fmt: skip
    def test_in_an_address(
        self, running: Running, broker: StubBroker, name: str, method: str, path: str,
        body: bytes | None,
    ) -> None:  # fmt: skip
        answer = running.ask(method, f"{path}?{name}=x.y.z", body=body)
        assert answer.code == "token_in_address"
        assert b"x.y.z" not in answer.body
        assert running.ask(method, f"{path}?{name}=x.y.z", body=body, token=None).code == "no_token"
        assert broker.asked == []


class TestSources:
    @pytest.mark.parametrize(
        ("forwarded", "source"),
        [
            ([], "127.0.0.1"),
            (["192.0.2.7"], "192.0.2.7"),
            (["6.6.6.6, 192.0.2.7"], "192.0.2.7"),  # what stands before it is the caller's word
            (["192.0.2.7, 10.1.1.1"], "192.0.2.7"),
            (["192.0.2.7", "10.1.1.1, 10.2.2.2"], "192.0.2.7"),
            (["10.1.1.1"], "10.1.1.1"),
            (["2001:db8::1"], "2001:db8::1"),
            (["192.0.2.7, fd00::1"], "192.0.2.7"),
            (["::ffff:192.0.2.7"], "192.0.2.7"),
            (["192.0.2.7, ::ffff:10.1.1.1"], "192.0.2.7"),
            (["unknown"], None),
            (["192.0.2.7:443"], None),
            (["192.0.2.7, nonsense"], None),
            (["192.0.2.7, "], "127.0.0.1"),
            ([""], "127.0.0.1"),
        ],
    )
    def test_behind_proxies(
        self, behind: Running, broker: StubBroker, forwarded: list[str], source: str | None
    ) -> None:
        headers = {}
        if forwarded:
            headers["X-Forwarded-For"] = "\r\nX-Forwarded-For: ".join(forwarded)
        assert behind.ask("GET", "/v1/whoami", headers=headers).status == 200
        assert broker.callers[0].source_ip == source

    def test_nobody_else_is_believed(self, running: Running, broker: StubBroker) -> None:
        told = {"X-Forwarded-For": "6.6.6.6", "Forwarded": "for=6.6.6.6", "X-Real-IP": "6.6.6.6"}
        running.ask("GET", "/v1/whoami", headers=told)
        assert broker.callers[0].source_ip == "127.0.0.1"

    def test_agents_are_short_and_printable(self, running: Running, broker: StubBroker) -> None:
        running.ask("GET", "/v1/whoami", headers={"User-Agent": "a\tb" + "c" * 500})
        assert broker.callers[0].client == "ab" + "c" * 125


class TestBodies:
    @pytest.mark.parametrize(
        ("body", "code"),
        [
            (b"", "bad_document"),
            (b"{}", "bad_document"),
            (b"null", "bad_document"),
            (b"[]", "bad_document"),
            (b'{"key_hash":1}', "bad_document"),
            (b'{"key_hash":"x","more":1}', "bad_document"),
            (b'{"key_hash":"x"} {}', "bad_document"),
            (b'{"key_hash":"\xff"}', "bad_document"),
            (b'{"key_hash":"x"', "bad_document"),
            (b"\xef\xbb\xbf" + BODY, "bad_document"),
            (b"[" * 60_000, "bad_document"),
            (b'{"key_hash":' * 5_000, "bad_document"),
        ],
    )
    def test_what_isnt_understood(
        self, running: Running, broker: StubBroker, body: bytes, code: str
    ) -> None:
        answer = running.ask("POST", RENEW, body=body)
        assert (answer.status, answer.code) == (400, code)
        assert broker.asked == []

    def test_deep_values_where_anything_may_stand(
        self, running: Running, broker: StubBroker
    ) -> None:
        subject = {"id": "a", "issuer": "b", "groups": [], "issued_at": 0, "expires_at": 0}
        ask = {"action": "load", "reference": "m", "subject": {**subject, "claims": {"x": 0}}}
        body = json.dumps(ask).encode().replace(b'{"x": 0}', b'{"x":' + b"[" * 30000 + b"]" * 30000)
        answer = running.ask("POST", "/v1/explanations", body=body + b"}")
        assert (answer.status, answer.code) == (400, "bad_document")
        assert broker.asked == []

    @pytest.mark.parametrize(
        "type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"]
    )
    def test_other_media_types(self, running: Running, type: str) -> None:
        answer = running.ask("POST", RENEW, body=BODY, headers={"Content-Type": type})
        assert (answer.status, answer.code) == (415, "bad_media_type")

    @pytest.mark.parametrize("type", ["application/json; charset=utf-8", "Application/JSON"])
    def test_json_by_its_other_names(self, running: Running, type: str) -> None:
        assert running.ask("POST", RENEW, body=BODY, headers={"Content-Type": type}).status == 200

    def test_another_interface(self, running: Running, broker: StubBroker) -> None:
        answer = running.ask("GET", "/v1/whoami", headers={"Modelvault-Api": "2"})
        assert (answer.status, answer.code, broker.asked) == (400, "other_api", [])

    @pytest.mark.parametrize(
        "query", ["a=1", "tenant=a&tenant=b", "limit=x", "limit=1.5", "limit=", "limit=1&LIMIT=1"]
    )
    def test_queries(self, running: Running, broker: StubBroker, query: str) -> None:
        answer = running.ask("GET", "/v1/models?" + query)
        assert (answer.status, answer.code, broker.asked) == (400, "bad_document", [])

    def test_no_query_where_none_is_wanted(self, running: Running) -> None:
        assert running.ask("GET", "/v1/whoami?a=1").code == "bad_document"
        assert running.ask("POST", RENEW + "?key_hash=y", body=BODY).code == "bad_document"

    def test_no_body_where_none_is_wanted(self, running: Running) -> None:
        for method, path in (("GET", "/v1/whoami"), ("DELETE", f"/v1/leases/{ID}")):
            assert running.ask(method, path, body=b"{}").code == "too_large"
        chunked = {"Transfer-Encoding": "chunked", "Authorization": "Bearer a.b.c"}
        lines = "".join(f"{name}: {text}\r\n" for name, text in chunked.items())
        head = f"GET /v1/whoami HTTP/1.1\r\nHost: x\r\n{lines}Connection: close\r\n\r\n"
        assert running.raw(head.encode() + b"2\r\n{}\r\n0\r\n\r\n").code == "too_large"


class TestSizes:
    def test_what_is_declared_too_long_isnt_read(self, running: Running) -> None:
        for length in (str(SMALL + 1), "9" * 19):
            answer = running.ask("POST", RENEW, headers={"Content-Length": length})
            assert (answer.status, answer.code) == (413, "too_large")

    def test_what_isnt_declared_is_cut(self, running: Running) -> None:
        head = (
            f"POST {RENEW} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a.b.c\r\n"
            "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
            "Connection: close\r\n\r\n"
        ).encode()
        chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
        answer = running.raw(head + 3 * chunk + b"0\r\n\r\n")
        assert (answer.status, answer.code) == (413, "too_large")

    def test_as_much_as_is_allowed(self, running: Running) -> None:
        assert running.ask("POST", RENEW, body=BODY.ljust(SMALL)).status == 200

    def test_only_what_holds_manifests_may_be_large(self) -> None:
        large = {call.name for call in CALLS.values() if call.limit >= LARGE}
        assert large == {"commit", "open_import", "commit_import"}

    def test_nobody_without_a_token_is_listened_to(self, running: Running) -> None:
        answer = running.ask("POST", RENEW, token=None, headers={"Content-Length": "60000"})
        assert answer.code == "no_token"


class TestTimes:
    def test_a_body_that_doesnt_come(
        self, broker: StubBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(requests, "BODY_S", 0.2)
        with Running(broker) as server:
            answer = server.ask("POST", RENEW, headers={
                "Content-Length": "16", "Content-Type": "application/json",
            })  # fmt: skip
        assert (answer.status, answer.code) == (408, "too_slow")
        assert broker.asked == []

    def test_a_body_that_breaks_off(self, running: Running, broker: StubBroker) -> None:
        with running.open() as connection:
            connection.sendall(
                f"POST {RENEW} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a.b.c\r\n"
                "Content-Length: 16\r\n\r\n{".encode()
            )
        assert running.ask("GET", "/v1/whoami").status == 200
        assert [name for name, _, _ in broker.asked] == ["whoami"]
