"""A client of brokers that are honest, slow, gone, lying, or not there at all."""

from __future__ import annotations

import json
import logging
import pickle
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from modelvault.access import Caller
from modelvault.adapters.broker_http import Address, Connection, RemoteBroker, answers
from modelvault.adapters.broker_http import connection as connection_module
from modelvault.errors import (
    AccessDenied,
    AuthenticationError,
    InvalidRequest,
    ModelVaultError,
    NotFound,
    Unavailable,
)
from support.servers.fake_http import FakeServer, Reply
from support.servers.process import free_port
from support.serving import Running
from support.stub_broker import WHO, StubBroker

ID = "0" * 32
CALLER = Caller(token="header.payload.signature", client="tests/1")
OURS = {"Content-Type": "application/json", "Modelvault-Api": "1"}
PROBLEM = {"Content-Type": "application/problem+json", "Modelvault-Api": "1"}
PRINCIPAL = {"id": "local:alice", "issuer": "local", "groups": [], "claims": {}, "issued_at": 0,
             "expires_at": 1}  # fmt: skip


def value(document: Any = PRINCIPAL, **more: Any) -> Reply:
    return Reply(200, json.dumps(document).encode(), dict(OURS), **more)


def problem(status: int = 403, code: str = "denied", family: str = "access_denied",
            **more: Any) -> Reply:  # fmt: skip
    document = {"type": f"urn:modelvault:problem:{code}", "title": "", "status": status,
                "detail": "told", "family": family, **more}  # fmt: skip
    return Reply(status, json.dumps(document).encode(), dict(PROBLEM))


def remote(url: str, **options: Any) -> RemoteBroker:
    address = {name: options.pop(name) for name in ("ca", "certificate", "key", "timeout_s")
               if name in options}  # fmt: skip
    return RemoteBroker(Connection(Address(url=url, **address), pause=lambda _s: None, **options))


@pytest.fixture
def far() -> Iterator[FakeServer]:
    with FakeServer(lambda _asked: value()) as server:
        yield server


@pytest.fixture
def broker(far: FakeServer) -> Iterator[RemoteBroker]:
    made = remote(far.url)
    yield made
    made.close()


def failure(call: Callable[[], object]) -> ModelVaultError:
    """The error of a call. Nothing that holds the token, or somebody's words, hangs on it."""
    with pytest.raises(ModelVaultError) as caught:
        call()
    shown = "".join(traceback.format_exception(caught.value))
    assert CALLER.token not in shown + repr(caught.value.__dict__)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return caught.value


class TestAddresses:
    @pytest.mark.parametrize(
        "url",
        ["", "x", "ftp://a", "https://", "https:///v1", "http://broker.example", "http://10.0.0.1",
         "https://a/path", "https://a?x=1", "https://a#x", "https://user:pw@a", "https://a:0",
         "https://a:99999", "https://a:x", "https://[::1", "http://localhost.evil.example",
         "http://127.0.0.1.evil.example"],
    )  # fmt: skip
    def test_bad_ones(self, url: str) -> None:
        error = failure(lambda: Address(url=url))
        assert isinstance(error, InvalidRequest)
        assert error.code == "bad_broker"
        assert "pw" not in str(error)

    @pytest.mark.parametrize(
        "url", ["https://a", "https://a:8443/", "http://127.0.0.1:1", "http://localhost:1",
                "http://[::1]:1", "https://[2001:db8::1]:8443"]
    )  # fmt: skip
    def test_good_ones(self, url: str) -> None:
        assert Address(url=url).url == url

    def test_files_that_cant_be_read(self, tmp_path: Path) -> None:
        (tmp_path / "bad.pem").write_text("no certificate")
        for names in ({"ca": tmp_path / "none"}, {"ca": tmp_path / "bad.pem"},
                      {"certificate": tmp_path / "bad.pem"}):  # fmt: skip
            assert failure(lambda n=names: remote("https://a", **n)).code == "bad_tls_files"


class TestRequests:
    def test_what_is_sent(self, far: FakeServer, broker: RemoteBroker) -> None:
        assert broker.whoami(CALLER) == WHO
        (asked,) = far.asked
        assert (asked.method, asked.path, asked.body) == ("GET", "/v1/whoami", b"")
        assert asked.headers["Authorization"] == "Bearer header.payload.signature"
        assert asked.headers["User-Agent"] == "tests/1"
        assert asked.headers["Modelvault-Api"] == "1"
        assert asked.headers["Accept-Encoding"] == "identity"

    @pytest.mark.parametrize(
        ("reference", "query"),
        [("m:prod", "m%3Aprod"), ("t/m@3", "t%2Fm%403"), ("m&x=1#y?z", "m%26x%3D1%23y%3Fz"),
         ("../../etc", "..%2F..%2Fetc"), ("m\r\nX: y", "m%0D%0AX%3A+y"), ("ü", "%C3%BC")],
    )  # fmt: skip
    def test_references_are_encoded(
        self, far: FakeServer, broker: RemoteBroker, reference: str, query: str
    ) -> None:
        failure(lambda: broker.show(CALLER, reference))
        assert far.asked[0].path == f"/v1/model?reference={query}"
        assert "X" not in far.asked[0].headers

    @pytest.mark.parametrize("id", ["", "..", "a/b", "a?b", "../leases", "a\r\nb", "é"])
    def test_ids_that_cant_be_any_arent_sent(
        self, far: FakeServer, broker: RemoteBroker, id: str
    ) -> None:
        error = failure(lambda: broker.release(CALLER, id))
        assert (type(error), error.code, far.asked) == (NotFound, "no_lease", [])

    @pytest.mark.parametrize("token", ["", "a\r\nX-Evil: 1", "a b", "tökén", "a\x00", "a\x7f"])
    def test_nor_tokens(self, far: FakeServer, broker: RemoteBroker, token: str) -> None:
        with pytest.raises(AuthenticationError) as caught:
            broker.whoami(Caller(token=token))
        assert (caught.value.code, far.asked) == ("malformed_token", [])
        assert not token or token not in str(caught.value)

    @pytest.mark.parametrize(
        ("client", "agent"), [("", "modelvault"), ("a\r\nX: b", "aX: b"), ("ü\x07", "modelvault"),
                              ("x" * 500, "x" * 128)]
    )  # fmt: skip
    def test_names_of_clients_are_made_harmless(
        self, far: FakeServer, broker: RemoteBroker, client: str, agent: str
    ) -> None:
        broker.whoami(Caller(token="a.b.c", client=client))
        assert far.asked[0].headers["User-Agent"] == agent

    def test_no_proxy_of_the_environment_is_used(
        self, far: FakeServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        assert remote(far.url).whoami(CALLER) == WHO

    def test_connections_are_kept(self, broker: RemoteBroker) -> None:
        for _ in range(3):
            broker.whoami(CALLER)
        pools = broker._connection._pool.pools
        (key,) = pools.keys()
        assert pools[key].num_connections == 1

    def test_nothing_secret_is_logged(
        self, broker: RemoteBroker, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.NOTSET):
            failure(lambda: broker.show(CALLER, "secret-reference"))
        assert "secret-reference" not in caplog.text
        assert CALLER.token not in caplog.text

    def test_a_caller_stays_in_its_process(self) -> None:
        with pytest.raises(TypeError):
            pickle.dumps(CALLER)


class TestErrors:
    @pytest.mark.parametrize(
        ("reply", "family", "code"),
        [
            (problem(403, "revoked"), AccessDenied, "revoked"),
            (problem(404, "no_model", "not_found"), NotFound, "no_model"),
            (problem(503, "policy_unavailable", "unavailable"), Unavailable, "policy_unavailable"),
            (problem(429, "rate_limited", "unavailable"), Unavailable, "rate_limited"),
        ],
    )
    def test_the_brokers_own(
        self, far: FakeServer, broker: RemoteBroker, reply: Reply, family: type, code: str
    ) -> None:
        far.reply = lambda _: reply
        error = failure(lambda: broker.whoami(CALLER))
        assert (type(error), error.code, error.message) == (family, code, "told")

    @pytest.mark.parametrize(
        "reply",
        [
            Reply(401, b"", {"Content-Type": "text/plain"}),
            Reply(403, b"<h1>Forbidden</h1>", {"Content-Type": "text/html"}),
            Reply(403, b"{}", {"Content-Type": "application/json"}),
            Reply(403, b'{"detail":"no"}', PROBLEM),
            Reply(403, problem().body, {"Content-Type": "application/problem+json"}),
            Reply(403, problem().body, OURS),
            Reply(404, b'{"type":"about:blank","status":404}', PROBLEM),
            Reply(403, problem(401).body, PROBLEM),
            Reply(502, problem(403).body, PROBLEM),
            Reply(403, b"[" * 100_000, PROBLEM),
            Reply(403, b'{"details":' * 50_000, PROBLEM),
            Reply(403, b" " * (1 << 20) + problem().body, PROBLEM),
            Reply(403, problem().body[:-1], PROBLEM),
            Reply(403, b"\xff\xfe", PROBLEM),
            Reply(403, b"", PROBLEM),
            Reply(302, b"", {**OURS, "Location": "/v1/elsewhere"}),
            Reply(301, problem(301).body.replace(b"denied", b"?"), PROBLEM),
            Reply(200, b"<html>log in</html>", {"Content-Type": "text/html"}),
            Reply(200, json.dumps(PRINCIPAL).encode(), {"Content-Type": "application/json"}),
            Reply(200, json.dumps(PRINCIPAL).encode(), {**OURS, "Content-Type": "text/plain"}),
            Reply(200, b"{}", OURS),
            Reply(200, b"null", OURS),
            Reply(200, b"[" * 100_000, OURS),
            Reply(200, json.dumps(PRINCIPAL | {"issued_at": "0"}).encode(), OURS),
            Reply(200, b"\xff", OURS),
            Reply(200, b"\x1f\x8b\x08", {**OURS, "Content-Encoding": "gzip"}),
            Reply(204, b"", OURS),
            Reply(206, json.dumps(PRINCIPAL).encode(), OURS),
            Reply(500, b"Internal Server Error", {"Content-Type": "text/plain"}),
            Reply(503, b"busy", {"Content-Type": "text/plain"}),
            problem(403, "denied", "a new family"),
        ],
        ids=lambda reply: f"{reply.status}-{reply.body[:24]!r}",
    )  # fmt: skip
    def test_what_somebody_else_says_is_an_outage(
        self, far: FakeServer, broker: RemoteBroker, reply: Reply
    ) -> None:
        """Above all it is no deny: that would wipe running jobs."""
        far.reply = lambda _: reply
        assert isinstance(failure(lambda: broker.whoami(CALLER)), Unavailable)

    @pytest.mark.parametrize("reply", [
        Reply(200, b"", OURS), Reply(200, b"<html>log in</html>", {"Content-Type": "text/html"}),
        Reply(204, b"", {}), Reply(202, b"", OURS),
    ], ids=lambda reply: str(reply.status))  # fmt: skip
    def test_done_only_where_the_broker_says_so(
        self, far: FakeServer, broker: RemoteBroker, reply: Reply
    ) -> None:
        far.reply = lambda _: reply
        assert isinstance(failure(lambda: broker.delete(CALLER, "m@1")), Unavailable)
        far.reply = lambda _: Reply(204, b"", OURS)
        broker.delete(CALLER, "m@1")

    def test_another_interface(self, far: FakeServer, broker: RemoteBroker) -> None:
        far.reply = lambda _: Reply(403, problem().body, {**PROBLEM, "Modelvault-Api": "2"})
        error = failure(lambda: broker.whoami(CALLER))
        assert (type(error), error.code) == (Unavailable, "other_api")

    @pytest.mark.parametrize(
        ("skew_s", "way"),
        [(-3600, "behind"), (3600, "ahead of"), (30, "ahead of"), (29, None), (0, None)],
    )
    def test_a_refused_token_and_clocks_that_differ(self, skew_s: int, way: str | None) -> None:
        told = AuthenticationError("token_expired", "told", "hint", a=1)
        headers = {"date": formatdate(1_800_000_000, usegmt=True)}
        error = answers.skewed(told, headers, (1_800_000_000 + skew_s) * 1000)
        assert (error.code, error.details) == ("token_expired", {"a": 1})
        assert ("clock" in error.message) == (way is not None)
        if way is not None:
            assert f"{abs(skew_s)} s {way}" in error.message

    @pytest.mark.parametrize("date", [None, "", "yesterday", "Mon, 99 Foo 2026 99:99:99 GMT"])
    def test_or_a_broker_without_a_clock(self, date: str | None) -> None:
        told = AuthenticationError("token_expired", "told")
        assert answers.skewed(told, {} if date is None else {"date": date}, 0) is told

    def test_the_clock_is_looked_at(self, far: FakeServer) -> None:
        far.reply = lambda _: problem(401, "token_not_yet_valid", "authentication")
        error = failure(lambda: remote(far.url, clock=lambda: 0).whoami(CALLER))
        assert "behind the broker's" in error.message
        assert "behind" not in failure(lambda: remote(far.url).whoami(CALLER)).message


class TestTries:
    def lease(self, broker: RemoteBroker) -> object:
        return broker.whoami(CALLER)

    def replies(self, far: FakeServer, *replies: Reply) -> None:
        left = list(replies)
        far.reply = lambda _asked: left.pop(0) if len(left) > 1 else left[0]

    @pytest.mark.parametrize(
        "lost",
        [
            Reply(200, b"{", OURS, declared=100),  # breaks off
            Reply(502, b"", {"Content-Type": "text/html"}),
            problem(503, "ledger_unavailable", "unavailable"),
            problem(503, "busy", "unavailable"),
        ],
        ids=["cut", "proxy", "ledger", "busy"],
    )
    def test_again_where_that_is_safe(
        self, far: FakeServer, broker: RemoteBroker, lost: Reply
    ) -> None:
        self.replies(far, lost, lost, value())
        assert broker.whoami(CALLER) == WHO
        assert len(far.asked) == 3
        self.replies(far, lost)
        assert isinstance(failure(lambda: broker.whoami(CALLER)), Unavailable)
        assert len(far.asked) == 6

    @pytest.mark.parametrize(
        "lost",
        [Reply(200, b"{", OURS, declared=100), Reply(502, b"", {}),
         problem(503, "ledger_unavailable", "unavailable")],
    )  # fmt: skip
    def test_never_where_it_isnt(self, far: FakeServer, broker: RemoteBroker, lost: Reply) -> None:
        self.replies(far, lost)
        for call in (
            lambda: broker.rotate(CALLER, "m"),
            lambda: broker.create(CALLER, "m", owner=None, classification="internal"),
            lambda: broker.revoke(CALLER, kind="lease", target="x", reason="y"),
        ):
            far.asked.clear()
            assert isinstance(failure(call), Unavailable)
            assert len(far.asked) == 1

    @pytest.mark.parametrize("code", ["policy_unavailable", "rate_limited", "key_service_sealed"])
    def test_not_for_an_outage_that_lasts(
        self, far: FakeServer, broker: RemoteBroker, code: str
    ) -> None:
        self.replies(far, problem(503, code, "unavailable"))
        assert failure(lambda: broker.whoami(CALLER)).code == code
        assert len(far.asked) == 1

    def test_nobody_listens(self) -> None:
        """Nothing was sent, so every call may be tried again."""
        pauses: list[float] = []
        address = Address(url=f"http://127.0.0.1:{free_port()}")
        broker = RemoteBroker(Connection(address, pause=pauses.append))
        for call in (lambda: broker.whoami(CALLER), lambda: broker.rotate(CALLER, "m")):
            pauses.clear()
            assert failure(call).code == "broker_unavailable"
            assert len(pauses) == 2
            assert all(0.1 < pause < 2 for pause in pauses)

    def test_no_try_begins_when_the_time_is_up(self, far: FakeServer) -> None:
        now = iter(range(0, 10**9, 20_000))
        self.replies(far, Reply(502, b"", {}))
        broker = remote(far.url, boot=lambda: next(now))
        assert failure(lambda: broker.whoami(CALLER)).code == "broker_unavailable"
        assert len(far.asked) < 3


class TestBounds:
    def test_a_long_answer(
        self, far: FakeServer, broker: RemoteBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection_module, "MAX_ANSWER", 1000)
        far.reply = lambda _: value(PRINCIPAL | {"claims": {"x": "y" * 2000}})
        assert "too long" in failure(lambda: broker.whoami(CALLER)).message

    @pytest.mark.parametrize(
        "reply", [value(delay=3.0), value(drip=0.05)], ids=["silent", "a byte at a time"]
    )
    def test_a_slow_answer(self, far: FakeServer, reply: Reply) -> None:
        far.reply = lambda _: reply
        begun = time.monotonic()
        broker = remote(far.url, timeout_s=0.3)
        assert failure(lambda: broker.whoami(CALLER)).code == "broker_unavailable"
        assert time.monotonic() - begun < 2.9

    @pytest.mark.parametrize("secure", [False, True])
    def test_a_head_that_drips(self, secure: bool, pem: dict[str, Path]) -> None:
        """No read of it ever times out; all together they do."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pem["leaf"], pem["key"])
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def drip() -> None:
                taken, _ = listener.accept()
                try:
                    with context.wrap_socket(taken, server_side=True) if secure else taken as to:
                        to.recv(1 << 16)
                        for _ in range(100):
                            to.sendall(b"H")
                            time.sleep(0.1)
                except OSError:
                    pass

            thread = threading.Thread(target=drip)
            thread.start()
            port = listener.getsockname()[1]
            scheme = "https" if secure else "http"
            options = {"ca": pem["ca"]} if secure else {}
            broker = remote(f"{scheme}://127.0.0.1:{port}", timeout_s=0.5, **options)
            begun = time.monotonic()
            error = failure(lambda: broker.rotate(CALLER, "m"))
            assert error.code == "broker_unavailable"
            assert time.monotonic() - begun < 8
            thread.join(20)

    def test_an_answer_left_unread_isnt_the_next_ones(
        self, far: FakeServer, broker: RemoteBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection_module, "MAX_ANSWER", 1000)
        long = value(PRINCIPAL | {"id": "local:mallory", "claims": {"x": "y" * 2000}})
        far.reply = lambda asked: long if asked.method == "GET" and len(far.asked) == 1 else value()
        failure(lambda: broker.rotate(CALLER, "m"))
        assert broker.whoami(CALLER).id == "local:alice"


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pem")
    authority, other = trustme.CA(), trustme.CA()
    written = {
        "ca": authority.cert_pem,
        "other": other.cert_pem,
        "client": authority.issue_cert("job@example.org").private_key_and_cert_chain_pem,
        "stranger": other.issue_cert("job@example.org").private_key_and_cert_chain_pem,
    }
    for name, kind in (("leaf", "127.0.0.1"), ("elsewhere", "broker.example")):
        issued = authority.issue_cert(kind)
        written[name] = issued.cert_chain_pems[0]
        written[name + ".key"] = issued.private_key_pem
    for name, blob in written.items():
        blob.write_to_path(str(folder / name))
    return {name: folder / name for name in written} | {"key": folder / "leaf.key"}


@pytest.fixture(scope="module")
def secure(pem: dict[str, Path]) -> Iterator[str]:
    with Running(StubBroker(), tls=(pem["leaf"], pem["key"])) as server:
        yield f"https://127.0.0.1:{server.port}"


class TestTls:
    def test_the_right_ca(self, secure: str, pem: dict[str, Path]) -> None:
        assert remote(secure, ca=pem["ca"]).whoami(CALLER) == WHO

    @pytest.mark.parametrize("ca", ["other", None])
    def test_a_wrong_one(self, secure: str, pem: dict[str, Path], ca: str | None) -> None:
        options = {} if ca is None else {"ca": pem[ca]}
        error = failure(lambda: remote(secure, **options).rotate(CALLER, "m"))
        assert (type(error), error.code) == (Unavailable, "broker_untrusted")
        assert "MODELVAULT_CA" in error.hint

    def test_another_hosts_certificate(self, pem: dict[str, Path]) -> None:
        with Running(StubBroker(), tls=(pem["elsewhere"], pem["elsewhere.key"])) as server:
            url = f"https://127.0.0.1:{server.port}"
            error = failure(lambda: remote(url, ca=pem["ca"]).whoami(CALLER))
        assert error.code == "broker_untrusted"
        assert "127.0.0.1" in error.message

    def test_client_certificates(self, pem: dict[str, Path]) -> None:
        settings = {"client_ca": pem["ca"]}
        with Running(StubBroker(), tls=(pem["leaf"], pem["key"]), serving=settings) as server:
            url = f"https://127.0.0.1:{server.port}"
            known = remote(url, ca=pem["ca"], certificate=pem["client"])
            assert known.whoami(CALLER) == WHO
            for options in ({}, {"certificate": pem["stranger"]}):
                unknown = remote(url, ca=pem["ca"], **options)
                # asyncio ends such connections without a word.
                error = failure(lambda unknown=unknown: unknown.whoami(CALLER))
                assert (type(error), error.code) == (Unavailable, "broker_unavailable")

    @pytest.mark.parametrize("certificate", [None, "stranger"])
    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_a_proxy_that_says_it_wants_one(
        self, pem: dict[str, Path], certificate: str | None, version: ssl.TLSVersion
    ) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pem["ca"]))
        context.load_cert_chain(pem["leaf"], pem["key"])
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = context.maximum_version = version
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def refuse() -> None:
                taken, _ = listener.accept()
                with context.wrap_socket(
                    taken, server_side=True, do_handshake_on_connect=False
                ) as to:
                    with pytest.raises(ssl.SSLError):
                        to.do_handshake()
                    socket.socket.shutdown(to, socket.SHUT_WR)
                    while socket.socket.recv(to, 1 << 16):  # or a reset would overtake the alert
                        pass

            thread = threading.Thread(target=refuse)
            thread.start()
            url = f"https://127.0.0.1:{listener.getsockname()[1]}"
            options = {} if certificate is None else {"certificate": pem[certificate]}
            error = failure(lambda: remote(url, ca=pem["ca"], **options).whoami(CALLER))
            thread.join(10)
        assert (type(error), error.code) == (Unavailable, "client_untrusted")
        assert "certificate" in error.hint

    def test_a_handshake_that_breaks_off_is_an_outage(self, pem: dict[str, Path]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            taken: list[int] = []

            def cut() -> None:
                for _ in range(3):
                    connection, _ = listener.accept()
                    taken.append(1)
                    connection.recv(10)
                    connection.close()

            thread = threading.Thread(target=cut)
            thread.start()
            url = f"https://127.0.0.1:{listener.getsockname()[1]}"
            error = failure(lambda: remote(url, ca=pem["ca"]).whoami(CALLER))
            thread.join(10)
        assert (error.code, len(taken)) == ("broker_unavailable", 3)

    def test_no_tls_there(self, far: FakeServer, pem: dict[str, Path]) -> None:
        url = far.url.replace("http:", "https:")
        error = failure(lambda: remote(url, ca=pem["ca"]).whoami(CALLER))
        assert error.code == "broker_unavailable"


def test_64_at_once(far: FakeServer, broker: RemoteBroker) -> None:
    far.reply = lambda asked: value(PRINCIPAL | {"id": asked.headers["User-Agent"]})
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        found[number] = broker.whoami(Caller(token="a.b.c", client=f"job/{number}")).id

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == {number: f"job/{number}" for number in range(64)}


def test_a_client_needs_none_of_the_servers_libraries() -> None:
    script = (
        "import sys, modelvault.adapters.broker_http, modelvault.wiring.remote\n"
        "import modelvault.adapters.objects_http, modelvault.client.session\n"
        "heavy = {'hvac', 'sqlalchemy', 'fastapi', 'starlette', 'boto3', 'requests', 'alembic',\n"
        "         'opa_client', 'uvicorn', 'prometheus_client', 'opentelemetry', 'psycopg'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize(
    "call",
    [
        lambda broker: broker.show(CALLER, "\ud800"),
        lambda broker: broker.tag(CALLER, "m@1", "\ud800"),
        lambda broker: broker.explain(
            CALLER, action="load", reference="m", purpose=None,
            subject=msgspec.structs.replace(WHO, claims={"x": object()}),
        ),
    ],
)  # fmt: skip
def test_what_has_no_json_isnt_sent(
    far: FakeServer, broker: RemoteBroker, call: Callable[[RemoteBroker], object]
) -> None:
    error = failure(lambda: call(broker))
    assert (type(error), error.code, far.asked) == (InvalidRequest, "bad_document", [])
