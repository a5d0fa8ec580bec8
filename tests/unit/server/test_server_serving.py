"""Listening, TLS, stopping in order, and the log."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from modelvault.errors import InvalidRequest
from modelvault.server.app import create
from modelvault.server.metrics import Metrics
from modelvault.server.service import Service
from modelvault.server.serving import Server, Serving, log
from support.servers.process import free_port, listening
from support.serving import Running, read_one, until
from support.stub_broker import WHO, Gate, StubBroker

WHOAMI = (
    b"GET /v1/whoami HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer a\r\n\r\n"
)


def context(files: dict[str, Path], **options: Any) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(files["ca"]))
    for name, value in options.items():
        setattr(made, name, value)
    return made


def nothing() -> FastAPI:
    """An application that serves no call."""
    service = Service(
        broker=None, steward=None, states=dict, metrics=Metrics(), revision=lambda: None
    )
    return create(service, 1)


class TestTls:
    def test_it_is_spoken(self, files: dict[str, Path]) -> None:
        with Running(StubBroker(), tls=(files["leaf"], files["key"])) as server:
            assert server.raw(WHOAMI, context(files)).status == 200
            with server.open(context(files)) as connection:
                assert connection.version() == "TLSv1.3"
            old = context(files, maximum_version=ssl.TLSVersion.TLSv1_2)
            assert server.raw(WHOAMI, old).status == 200

    @pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
    def test_nothing_older_than_1_2(self, files: dict[str, Path]) -> None:
        older = context(files, minimum_version=ssl.TLSVersion.TLSv1)
        older.maximum_version = ssl.TLSVersion.TLSv1_1
        older.set_ciphers("ALL:@SECLEVEL=0")
        with (
            Running(StubBroker(), tls=(files["leaf"], files["key"])) as server,
            pytest.raises(ssl.SSLError),
        ):
            server.open(older)

    def test_clients_with_certificates(self, files: dict[str, Path]) -> None:
        known = context(files)
        known.load_cert_chain(files["client"])
        settings = {"client_ca": files["ca"]}
        with Running(StubBroker(), tls=(files["leaf"], files["key"]), serving=settings) as server:
            assert server.raw(WHOAMI, known).status == 200
            with pytest.raises((ssl.SSLError, OSError, IndexError)):
                server.raw(WHOAMI, context(files))

    def test_or_without_where_that_is_optional(self, files: dict[str, Path]) -> None:
        settings = {"client_ca": files["ca"], "client_optional": True}
        with Running(StubBroker(), tls=(files["leaf"], files["key"]), serving=settings) as server:
            assert server.raw(WHOAMI, context(files)).status == 200

    def test_plain_text_to_a_tls_port_ends(self, files: dict[str, Path]) -> None:
        with (
            Running(StubBroker(), tls=(files["leaf"], files["key"])) as server,
            server.open() as connection,
        ):
            connection.sendall(WHOAMI)
            assert b"200" not in connection.recv(1 << 16)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"host": "0.0.0.0"}, "without TLS"),  # noqa: S104
        ({"host": "::"}, "without TLS"),
        ({"host": "broker.example"}, "without TLS"),
        ({"certificate": Path("/nowhere/leaf.pem"), "key": Path("/nowhere/key.pem")}, "be read"),
    ],
)
def test_what_isnt_served(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Server().run(nothing(), Serving(**({"host": "127.0.0.1", "port": free_port()} | changes)))
    assert caught.value.code == "bad_serving"
    assert told in caught.value.message


def test_a_key_that_isnt_the_certificates(files: dict[str, Path], authority: Any) -> None:
    other = files["ca"].parent / "other.key"
    authority.issue_cert("127.0.0.1").private_key_pem.write_to_path(str(other))
    told = Serving(host="127.0.0.1", port=free_port(), certificate=files["leaf"], key=other)
    with pytest.raises(InvalidRequest) as caught:
        Server().run(nothing(), told)
    assert caught.value.code == "bad_serving"


class TestStopping:
    def test_what_has_begun_ends_well(self) -> None:
        broker = StubBroker()
        gate = broker.answer = Gate(WHO)
        answers: list[int] = []
        server = Running(broker)
        asking = threading.Thread(target=lambda: answers.append(server.raw(WHOAMI).status))
        asking.start()
        assert gate.entered.acquire(timeout=10)
        server.server.stop()
        until(lambda: not listening(server.port))
        gate.go.set()
        server.join()
        asking.join(10)
        assert answers == [200]

    def test_but_isnt_waited_for_for_ever(self) -> None:
        broker = StubBroker()
        gate = broker.answer = Gate(WHO)
        server = Running(broker, serving={"drain_s": 0.0})
        with server.open() as connection:
            connection.sendall(WHOAMI)
            assert gate.entered.acquire(timeout=10)
            server.server.stop()
            until(lambda: not listening(server.port))
            # Whoever waits for a thread that can't be stopped waits for its ports' own deadlines.
            threading.Timer(0.5, gate.go.set).start()
            server.join()
            connection.settimeout(10)
            assert b" 200 " not in connection.recv(1 << 16)

    def test_readiness_says_so_before_the_port_closes(self) -> None:
        server = Running(StubBroker(), serving={"notice_s": 1.0})
        assert server.ask("GET", "/readyz", token=None).status == 200
        server.server.stop()
        time.sleep(0.3)  # well over the time that a stop without notice takes
        answer = server.ask("GET", "/readyz", token=None)
        assert (answer.status, answer.json()["parts"]) == (503, {"server": "stopping"})
        assert server.raw(WHOAMI).status == 200
        server.join()
        assert not listening(server.port)

    def test_a_second_signal_doesnt_wait_for_the_notice(self) -> None:
        server = Running(StubBroker(), serving={"notice_s": 3600.0})
        inner = server.server._server
        assert inner is not None
        inner.handle_exit(signal.SIGTERM, None)
        assert server.ask("GET", "/readyz", token=None).status == 503
        inner.handle_exit(signal.SIGTERM, None)
        server.join()

    def test_a_stop_before_the_start(self) -> None:
        server = Server()
        server.stop()
        assert server.draining()

    def test_idle_clients_dont_hold_it_up(self, files: dict[str, Path]) -> None:
        """A connection in somebody's pool reads nothing, and so never ends its side of TLS."""
        server = Running(StubBroker(), tls=(files["leaf"], files["key"]))
        kept = WHOAMI.replace(b"Connection: close\r\n", b"")
        with server.open(context(files)) as idle, server.open(context(files)) as busy:
            for connection in (idle, busy):
                connection.sendall(kept)
                assert read_one(connection).status == 200
            begun = time.monotonic()
            server.stop()
            assert time.monotonic() - begun < 15  # and not the 30 s of drain_s

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_is_a_stop_in_order(self, number: signal.Signals, tmp_path: Path) -> None:
        """The process ends by itself and with 0, after what it had begun."""
        port = free_port()
        script = tmp_path / "serve.py"
        script.write_text(
            "import sys, time\n"
            f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
            "from modelvault.server.app import create\n"
            "from modelvault.server.metrics import Metrics\n"
            "from modelvault.server.service import Service\n"
            "from modelvault.server.serving import Server, Serving\n"
            "from support.stub_broker import WHO, StubBroker\n"
            "def answer(name):\n"
            "    print('begun', flush=True); time.sleep(0.5); return WHO\n"
            "server = Server()\n"
            "service = Service(broker=StubBroker(answer), steward=None, states=dict,\n"
            "    metrics=Metrics(), revision=lambda: None, draining=server.draining)\n"
            f"server.run(create(service, 2), Serving(host='127.0.0.1', port={port}))\n"
            "print('ended', flush=True)\n"
        )
        child = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
        try:
            until(lambda: listening(port), 20)
            with socket.create_connection(("127.0.0.1", port), 10) as connection:
                connection.sendall(WHOAMI)
                assert child.stdout is not None
                assert child.stdout.readline() == "begun\n"
                os.kill(child.pid, number)
                assert read_one(connection).status == 200
            assert child.wait(20) == 0
            assert child.stdout.readline() == "ended\n"
        finally:
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()


def test_a_taken_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InvalidRequest) as caught:
            Server().run(nothing(), Serving(host="127.0.0.1", port=taken.getsockname()[1]))
    assert caught.value.code == "bad_serving"
    assert "in use" in caught.value.message


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_isnt_here(host: str, files: dict[str, Path]) -> None:
    told = Serving(host=host, port=free_port(), certificate=files["leaf"], key=files["key"])
    with pytest.raises(InvalidRequest) as caught:
        Server().run(nothing(), told)
    assert caught.value.code == "bad_serving"


def test_all_addresses_of_a_name() -> None:
    broker = StubBroker()
    with Running(broker, serving={"host": "localhost"}) as server:
        assert server.raw(WHOAMI).status == 200


def test_too_many_connections() -> None:
    with Running(StubBroker(), serving={"connections": 3}) as server:
        silent = [server.open() for _ in range(3)]
        until(lambda: server.connections() == 3)
        answer = server.raw(WHOAMI)
        assert answer.status == 503
        for each in silent:
            each.close()
        until(lambda: server.connections() == 0)
        assert server.raw(WHOAMI).status == 200


class TestLog:
    @pytest.fixture(autouse=True)
    def kept(self) -> Any:
        root = logging.getLogger()
        before = root.handlers[:], root.level
        yield
        root.handlers[:], _ = before[0], root.setLevel(before[1])

    def test_a_line_is_a_json_object(self, capsys: pytest.CaptureFixture[str]) -> None:
        log("info")
        extra = {"request": "abc", "call": "lease", "status": 200, "ms": 3, "token": "x.y.z"}
        logging.getLogger("modelvault.access").info("request", extra=extra)
        line = json.loads(capsys.readouterr().err)
        assert {name: line[name] for name in ("request", "call", "status", "ms")} == {
            "request": "abc", "call": "lease", "status": 200, "ms": 3,
        }  # fmt: skip
        assert "x.y.z" not in str(line)

    def test_an_exception_is_its_name_alone(self, capsys: pytest.CaptureFixture[str]) -> None:
        log("info")
        try:
            raise ValueError("hunter2")
        except ValueError:
            logging.getLogger("x").exception("it failed\nbadly")
        text = capsys.readouterr().err
        assert text.count("\n") == 1
        assert json.loads(text)["failure"] == "ValueError"
        assert "hunter2" not in text

    def test_libraries_say_little(self, capsys: pytest.CaptureFixture[str]) -> None:
        log("debug")
        logging.getLogger("urllib3.connectionpool").debug("GET /?X-Amz-Signature=abc")
        assert capsys.readouterr().err == ""
