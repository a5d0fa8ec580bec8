"""Slow, silent and garbled connections hold nothing for long."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import msgspec
import pytest

from modelvault.server.protocol import BoundedProtocol
from support.serving import Running, parse, read_all, read_one, until
from support.stub_broker import WHO, Gate, StubBroker

WHOAMI = b"GET /v1/whoami HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a.b.c\r\n\r\n"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedProtocol, "head_s", 1.0)
    monkeypatch.setattr(BoundedProtocol, "unread_s", 0.3)


def drip(connection: socket.socket, data: bytes, pause: float) -> None:
    """A byte at a time, until the other end has had enough."""
    try:
        for byte in data:
            connection.sendall(bytes([byte]))
            time.sleep(pause)
    except OSError:
        pass


@pytest.mark.usefixtures("hasty")
class TestHeads:
    def test_a_silent_connection_ends(self, running: Running) -> None:
        with running.open() as connection:
            assert read_all(connection) == b""

    def test_a_head_that_drips_ends(self, running: Running, broker: StubBroker) -> None:
        """Each byte comes well within any timeout between bytes."""
        with running.open() as connection:
            dripping = threading.Thread(target=drip, args=(connection, WHOAMI * 10, 0.05))
            dripping.start()
            assert read_all(connection) == b""
            dripping.join(60)
        assert broker.asked == []

    def test_a_second_one_on_the_same_connection_too(self, running: Running) -> None:
        with running.open() as connection:
            connection.sendall(WHOAMI)
            assert read_one(connection).status == 200
            connection.sendall(b"GET /v1/who")
            assert read_all(connection) == b""

    def test_a_slow_answer_is_no_slow_head(self, running: Running, broker: StubBroker) -> None:
        gate = broker.answer = Gate(WHO)
        with running.open() as connection:
            connection.sendall(WHOAMI)
            assert gate.entered.acquire(timeout=10)
            time.sleep(1.2)
            gate.go.set()
            assert read_one(connection).status == 200

    def test_nor_is_a_pause_between_two(self, running: Running) -> None:
        with running.open() as connection:
            for pause in (1.2, 0):
                connection.sendall(WHOAMI)
                assert read_one(connection).status == 200
                time.sleep(pause)

    def test_two_at_once_are_answered_in_turn(self, running: Running) -> None:
        with running.open() as connection:
            connection.sendall(WHOAMI + WHOAMI.replace(b"Host", b"Connection: close\r\nHost"))
            assert read_all(connection).count(b"HTTP/1.1 200") == 2


@pytest.mark.usefixtures("hasty")
def test_an_answer_that_nobody_reads_ends(running: Running, broker: StubBroker) -> None:
    broker.answer = lambda _name: msgspec.structs.replace(WHO, claims={"x": "y" * (16 << 20)})
    with running.open() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(WHOAMI)
        until(lambda: bool(broker.asked))
        until(lambda: not running.connections())


def test_a_slow_reader_gets_it_all(
    running: Running, broker: StubBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also behind `Connection: close`, when the server has nothing more to say for long."""
    monkeypatch.setattr(BoundedProtocol, "close_s", 0.05)
    size = 8 << 20
    broker.answer = lambda _name: msgspec.structs.replace(WHO, claims={"x": "y" * size})
    with running.open() as connection:
        connection.sendall(WHOAMI.replace(b"Host", b"Connection: close\r\nHost"))
        got = 0
        for number in range(1 << 20):
            part = connection.recv(1 << 17)
            got += len(part)
            if not part:
                break
            time.sleep(0.2 if number < 3 else 0.005)
    assert got > size


def test_a_connection_that_idles_ends(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    server = running.server._server
    assert server is not None
    monkeypatch.setattr(server.config, "timeout_keep_alive", 0.1)
    with running.open() as connection:
        connection.sendall(WHOAMI)
        assert read_one(connection).status == 200
        assert read_all(connection) == b""


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",  # TLS to a plain port
        b"GET /v1/whoami\r\n\r\n",
        b"GET /v1/who ami HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/whoami HTTP/1.1\r\n\r\n",  # no Host
        b"GET /v1/whoami HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET /v1/whoami HTTP/1.1\r\nHost: x\r\nBad Name: x\r\n\r\n",
        b"GET /v1/whoami HTTP/1.1\r\nHost: x\r\nName : x\r\n\r\n",
        b"GET /v1/whoami HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    ],
    ids=lambda data: data[:40].decode("latin-1") + str(len(data)),
)
def test_what_isnt_http_is_a_problem(running: Running, broker: StubBroker, data: bytes) -> None:
    answer = running.raw(data)
    assert answer.status in {400, 501}
    assert answer.code == "bad_request"
    assert answer.headers["connection"] == "close"
    assert broker.asked == []


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/models?filter=" + b"a" * 70_000 + b" HTTP/1.1\r\n",
        b"GET /v1/whoami HTTP/1.1\r\nA: " + b"a" * 70_000 + b"\r\n",
        b"GET /v1/whoami HTTP/1.1\r\n" + b"A: b\r\n" * 12_000,
    ],
    ids=["address", "header", "headers"],
)
def test_a_huge_head(running: Running, broker: StubBroker, head: bytes) -> None:
    """Of one piece, or of many: the parser's own limit counts only what isn't whole yet."""
    rest = b"Host: x\r\nConnection: close\r\nAuthorization: Bearer a.b.c\r\n\r\n"
    whole = running.raw(head + rest)
    assert whole.code in {"head_too_large", "bad_request"}
    with running.open() as connection:
        for start in range(0, len(head), 9000):
            connection.sendall((head + rest)[start : start + 9000])
            time.sleep(0.01)
        assert parse(read_all(connection)).code in {"head_too_large", "bad_request"}
    assert broker.asked == []


def test_garbage_in_a_body_ends_the_connection(running: Running, broker: StubBroker) -> None:
    head = (
        b"POST /v1/tags HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a.b.c\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    assert running.raw(head + b"zz\r\n").status == 400
    assert broker.asked == []


def test_no_websockets(running: Running) -> None:
    answer = running.ask("GET", "/v1/whoami", headers={
        "Connection": "upgrade, close", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    })  # fmt: skip
    assert answer.status == 200  # read over: it is a request like any other


def test_an_answers_body_does_not_wait_for_its_head(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nagle's algorithm holds the second of two writes back until the first is acknowledged."""
    seen: list[int] = []
    made = BoundedProtocol.connection_made

    def looked(self: BoundedProtocol, transport: asyncio.Transport) -> None:
        made(self, transport)
        connection = transport.get_extra_info("socket")
        seen.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(BoundedProtocol, "connection_made", looked)
    with running.open() as connection:
        connection.sendall(WHOAMI)
        assert read_one(connection).status == 200
    assert len(seen) == 1
    assert seen[0] != 0
