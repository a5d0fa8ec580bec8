"""Routes, statuses, and what stands around every answer."""

from __future__ import annotations

import logging
import threading

import pytest

from modelvault.errors import (
    AccessDenied,
    AuthenticationError,
    Conflict,
    IntegrityError,
    InvalidRequest,
    ModelVaultError,
    NotFound,
    Unavailable,
)
from modelvault.server import app as app_module
from modelvault.wire.calls import CALLS
from support.serving import Running, until
from support.stub_broker import WHO, Gate, StubBroker

ID = "0" * 32


def test_a_call_and_its_answer(running: Running, broker: StubBroker) -> None:
    answer = running.ask("GET", "/v1/whoami", headers={"User-Agent": "job/1"})
    assert (answer.status, answer.json()["id"]) == (200, "local:alice")
    assert answer.headers["content-type"] == "application/json"
    ((name, (caller,), _),) = broker.asked
    assert (name, caller.token, caller.source_ip, caller.client) == (
        "whoami", "a.b.c", "127.0.0.1", "job/1",
    )  # fmt: skip


def test_nothing_to_say_is_204(running: Running, broker: StubBroker) -> None:
    answer = running.ask("DELETE", f"/v1/leases/{ID}")
    assert (answer.status, answer.body) == (204, b"")
    assert broker.asked[0][1][1] == ID


def test_a_query_and_a_body(running: Running, broker: StubBroker) -> None:
    running.ask("GET", "/v1/models?tenant=t&filter=m%2A%26%2F%3A%40&limit=7")
    body = b'{"kind":"lease","target":"x","reason":"y"}'
    assert running.ask("POST", "/v1/revocations", body=body).json() == {"ended": 3}
    assert broker.asked[0][2] == {"tenant": "t", "filter": "m*&/:@", "limit": 7, "after": ""}
    assert broker.asked[1][2] == {"kind": "lease", "target": "x", "reason": "y", "for_s": None}


def test_every_answer_has_safe_headers(running: Running) -> None:
    for answer in (
        running.ask("GET", "/v1/whoami"),
        running.ask("GET", "/nowhere"),
        running.ask("GET", "/healthz", token=None),
        running.ask("POST", "/v1/whoami"),
    ):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["modelvault-api"] == "1"
        assert answer.headers["x-request-id"]
        assert "server" not in answer.headers


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequest("bad_reference", "x"), 400),
        (InvalidRequest("too_large", "x"), 413),
        (AuthenticationError("token_expired", "x"), 401),
        (AccessDenied("denied", "x", "y", reasons=["a"]), 403),
        (NotFound("no_model", "x"), 404),
        (Conflict("model_exists", "x"), 409),
        (IntegrityError("bad_signature", "x"), 422),
        (Unavailable("ledger_unavailable", "x"), 503),
        (Unavailable("rate_limited", "x", retry_after_s=17), 429),
    ],
    ids=lambda value: getattr(value, "code", None),
)
def test_errors_as_problems(
    running: Running, broker: StubBroker, error: ModelVaultError, status: int
) -> None:
    def refuse(_name: str) -> None:
        raise error

    broker.answer = refuse
    answer = running.ask("GET", "/v1/whoami")
    assert (answer.status, answer.code) == (status, error.code)
    document = answer.json()
    assert document["detail"] == error.message
    assert document["instance"] == answer.headers["x-request-id"]
    assert document.get("details", {}) == error.details
    assert ("www-authenticate" in answer.headers) == (status == 401)
    if status in {429, 503}:
        assert answer.headers["retry-after"] == ("17" if status == 429 else "1")


def test_a_mistake_of_ours_tells_nothing(
    running: Running, broker: StubBroker, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_name: str) -> None:
        raise RuntimeError("hunter2")

    broker.answer = fail
    with caplog.at_level(logging.DEBUG):
        answer = running.ask("GET", "/v1/whoami")
    assert (answer.status, answer.code) == (500, "internal")
    assert answer.json()["family"] == "unavailable"
    assert b"hunter2" not in answer.body
    (record,) = [one for one in caplog.records if one.name == "modelvault.server"]
    assert record.__dict__["failure"] == "RuntimeError"
    assert "hunter2" not in str(record.__dict__)
    assert any("fail" in frame for frame in record.__dict__["frames"])


@pytest.mark.parametrize("role", ["broker", "steward"])
def test_a_role_serves_its_own_calls(broker: StubBroker, role: str) -> None:
    other = {"broker": "steward", "steward": "broker"}[role]
    with Running(broker, **{other: None}) as server:
        for call in CALLS.values():
            path = call.path.replace("{id}", ID)
            answer = server.ask(call.method, path, token=None)
            assert answer.code == ("no_token" if call.side == role else answer.code)
            if call.side != role:
                assert answer.code in {"no_route", "bad_method"}
    assert broker.asked == []


@pytest.mark.parametrize(
    ("method", "path", "code", "allowed"),
    [
        ("GET", "/v1/nowhere", "no_route", None),
        ("GET", "/", "no_route", None),
        ("GET", "/docs", "no_route", None),
        ("GET", "/v1/whoami/", "no_route", None),
        ("GET", "//v1/whoami", "no_route", None),
        ("GET", "/v1/../v1/whoami", "no_route", None),
        ("GET", "/v1/%2e%2e/healthz", "no_route", None),
        ("POST", "/v1/leases/a%2Fb/renew", "no_route", None),
        ("POST", "/v1/leases/../renew", "no_lease", None),
        ("GET", "/metrics", "no_route", None),
        ("PUT", "/v1/whoami", "bad_method", "GET"),
        ("TRACE", "/v1/whoami", "bad_method", "GET"),
        ("PATCH", "/v1/leases", "bad_method", "GET, POST"),
        ("DELETE", "/healthz", "bad_method", "GET, HEAD"),
        ("get", "/v1/whoami", "bad_method", "GET"),
    ],
)
def test_wrong_paths_and_methods(
    running: Running, broker: StubBroker, method: str, path: str, code: str, allowed: str | None
) -> None:
    answer = running.ask(method, path)
    assert (answer.code, answer.headers.get("allow")) == (code, allowed)
    assert broker.asked == []


def test_options_and_head(running: Running) -> None:
    told = running.ask("OPTIONS", "/v1/leases", token=None)
    assert (told.status, told.headers["allow"]) == (204, "GET, POST")
    assert running.ask("OPTIONS", "/nowhere", token=None).code == "no_route"
    head = running.ask("HEAD", "/healthz", token=None)
    assert (head.status, head.body) == (200, b"")


def test_who_has_waited_too_long_is_sent_away(
    broker: StubBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client has given up: what it asked for isn't begun."""
    monkeypatch.setattr(app_module, "PATIENCE_MS", -1)
    with Running(broker) as server:
        answer = server.ask("GET", "/v1/whoami")
    assert (answer.status, answer.code, broker.asked) == (503, "busy", [])


class TestRequestIds:
    @pytest.mark.parametrize("given", ["abcdef12", "A-b_c" * 5])
    def test_a_callers_own(self, running: Running, given: str) -> None:
        answer = running.ask("GET", "/nowhere", headers={"X-Request-Id": given})
        assert answer.headers["x-request-id"] == given
        assert answer.json()["instance"] == given

    @pytest.mark.parametrize("given", ["short", "a" * 65, 'x"; drop', "ünï-cödé", "a b c d e f g"])
    def test_or_one_of_ours(self, running: Running, given: str) -> None:
        answer = running.ask("GET", "/nowhere", headers={"X-Request-Id": given})
        assert answer.headers["x-request-id"] not in {given, ""}


class TestLog:
    def test_a_line_for_each_request_with_nothing_secret(
        self, running: Running, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            running.ask("GET", "/v1/model?reference=secret-name", token="the.secret.token")
            running.ask("GET", "/v1/models?access_token=the.secret.token")
            running.ask("POST", "/v1/tags", body=b'{"the":"secret body"}')
            until(lambda: len([r for r in caplog.records if r.name == "modelvault.access"]) == 3)
        lines = [record for record in caplog.records if record.name == "modelvault.access"]
        assert [(line.__dict__["call"], line.__dict__["code"]) for line in lines] == [
            ("show", None), ("list", "token_in_address"), ("tag", "bad_document"),
        ]  # fmt: skip
        assert all(line.__dict__["request"] and line.__dict__["ms"] >= 0 for line in lines)
        for record in caplog.records:
            assert "secret" not in str(record.__dict__)


def test_requests_at_once_are_all_answered(broker: StubBroker) -> None:
    """64 of them, on 4 threads; and while the threads are busy, it lives and says so."""
    gate = broker.answer = Gate(WHO)
    answers: list[int] = []
    with Running(broker, threads=4) as server:
        asking = [
            threading.Thread(target=lambda: answers.append(server.ask("GET", "/v1/whoami").status))
            for _ in range(64)
        ]
        for thread in asking:
            thread.start()
        for _ in range(4):
            assert gate.entered.acquire(timeout=10)
        assert server.ask("GET", "/healthz", token=None).json() == {"status": "ok"}
        assert server.ask("GET", "/readyz", token=None).status == 200
        assert not gate.entered.acquire(blocking=False)
        gate.go.set()
        for thread in asking:
            thread.join(20)
    assert answers == [200] * 64
    assert len(broker.asked) == 64
