"""Attacks on the broker's HTTP: smuggled requests, forged origins, floods, and ends at every byte.

The broker behind it is a real one, with a model in it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import msgspec
import pytest

from modelvault.broker.throttle import Rates
from modelvault.errors import Unavailable
from support.serving import Answer, Running, parse, read_all, until
from support.vaults import Vault, allow, deny, make

FILES = {"a.bin": b"a" * 1000}


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    made = make(tmp_path_factory.mktemp("vault"))
    made.create("m")
    made.push("m", FILES)
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(vault: Vault) -> Iterator[Running]:
    with Running(vault.broker, revision=vault.ledger.policy_revision) as running:
        yield running


def head(vault: Vault, method: str, path: str, *more: str, sub: str = "alice") -> bytes:
    lines = ["Host: x", f"Authorization: Bearer {vault.token(sub)}", *more]
    return (f"{method} {path} HTTP/1.1\r\n" + "".join(f"{x}\r\n" for x in lines) + "\r\n").encode()


def answers(server: Running, data: bytes) -> list[Answer]:
    """All answers on one connection, whose last request asks for its end."""
    last = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with server.open() as connection:
        connection.sendall(data + last)
        got = read_all(connection)
    return [parse(b"HTTP/1.1 " + one) for one in got.split(b"HTTP/1.1 ")[1:]]


class TestSmuggling:
    """A second request hidden in the first one's body never reaches the broker."""

    HIDDEN = b"DELETE /v1/leases/" + b"0" * 32 + b" HTTP/1.1\r\nHost: x\r\n\r\n"

    @pytest.mark.parametrize(
        ("lines", "body"),
        [
            (["Content-Length: 0", "Transfer-Encoding: chunked"], b"0\r\n\r\n"),
            (["Transfer-Encoding: chunked", "Content-Length: 5"], b"0\r\n\r\n"),
            (["Content-Length: 0", "Content-Length: 5"], b"     "),
            (["Content-Length: 0, 5"], b"     "),
            (["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], b"0\r\n\r\n"),
            (["Transfer-Encoding: xchunked"], b"0\r\n\r\n"),
            (["Transfer-Encoding : chunked"], b"0\r\n\r\n"),
            (["Transfer-Encoding:\x0bchunked"], b"0\r\n\r\n"),
            (["X: y\nTransfer-Encoding: chunked"], b"0\r\n\r\n"),
            (["Content-Length: +5"], b"     "),
            (["Content-Length: 0x5"], b"     "),
            (["Content-Length: 5 "], b"0\r\n\r\n"),
            (["Transfer-Encoding: chunked"], b"0x5\r\n     \r\n0\r\n\r\n"),
            (["Transfer-Encoding: chunked"], b"-1\r\n\r\n"),
            (["Transfer-Encoding: chunked"], b"ffffffffffffffffffffff\r\n"),
        ],
    )
    def test_lengths_told_in_more_than_one_way(
        self, vault: Vault, server: Running, lines: list[str], body: bytes
    ) -> None:
        before = len(vault.entries())
        data = head(vault, "POST", "/v1/gc", "Content-Type: application/json", *lines) + body
        found = answers(server, data + self.HIDDEN)
        # Either the first one is refused and the connection ends, or both sides agree on its end
        # and the second one is a request of its own, without a token.
        assert found
        assert found[0].status in {400, 413, 501}
        assert [one.status for one in found[1:]] in ([], [401, 200])
        assert len(vault.entries()) == before

    def test_each_request_has_its_own_caller(self, vault: Vault, server: Running) -> None:
        pair = head(vault, "GET", "/v1/whoami") + head(vault, "GET", "/v1/whoami", sub="bob")
        none = b"GET /v1/whoami HTTP/1.1\r\nHost: x\r\n\r\n"
        found = answers(server, pair + none + pair)
        assert [one.status for one in found] == [200, 200, 401, 200, 200, 200]
        ids = [json.loads(one.body[: one.body.rindex(b"}") + 1])["id"] for one in found[:2]]
        assert ids == ["local:alice", "local:bob"]


class TestOrigins:
    """A policy that goes by networks can't be told a wrong one."""

    @pytest.mark.parametrize(
        ("proxies", "told", "seen"),
        [
            ((), "10.9.9.9", "127.0.0.1"),
            (("192.0.2.0/24",), "10.9.9.9", "127.0.0.1"),
            (("127.0.0.0/8",), "10.9.9.9", "10.9.9.9"),
            (("127.0.0.0/8",), "10.9.9.9, 198.51.100.1", "198.51.100.1"),
        ],
    )
    def test_forged_addresses(
        self, vault: Vault, proxies: tuple[str, ...], told: str, seen: str
    ) -> None:
        asked: list[object] = []

        def rule(document: dict) -> object:
            asked.append(document["context"]["source_ip"])
            return deny("outside")

        vault.policy.rule = rule
        networks = tuple(map(ip_network, proxies))
        try:
            with Running(vault.broker, proxies=networks) as server:
                token = vault.token()
                headers = {"X-Forwarded-For": told, "Forwarded": "for=10.9.9.9"}
                server.ask("GET", "/v1/model?reference=m", token=token, headers=headers)
        finally:
            vault.policy.rule = lambda _document: allow()
        assert asked == [seen]


def plain(vault: Vault) -> object:
    """Its ledger itself: the spy around it has a `count` of its own."""
    return vault.ledger._port


class TestFloods:
    def test_failed_logins_of_an_address(self, vault: Vault) -> None:
        broker = vault.another_broker(ledger=plain(vault), rates=Rates(principal=1000, failures=20))
        with Running(broker) as server:
            codes = [server.ask("GET", "/v1/whoami", token="x.y.z").code for _ in range(25)]
            answer = server.ask("GET", "/v1/whoami", token=vault.token())
        assert codes[:20] == ["malformed_token"] * 20
        assert set(codes[20:]) == {"rate_limited"}
        # An outage for everybody there, and never a deny: that would wipe running jobs.
        assert (answer.status, answer.code) == (429, "rate_limited")
        assert answer.json()["family"] == Unavailable.family
        assert 1 <= int(answer.headers["retry-after"]) <= 61

    def test_requests_of_a_principal(self, vault: Vault) -> None:
        broker = vault.another_broker(ledger=plain(vault), rates=Rates(principal=20, failures=1000))
        with Running(broker) as server:
            asked = [
                server.ask("GET", "/v1/whoami", token=vault.token("carol")).status
                for _ in range(25)
            ]
            other = server.ask("GET", "/v1/whoami", token=vault.token("dave")).status
        assert asked == [200] * 20 + [429] * 5
        assert other == 200


class TestCutConnections:
    def test_at_every_part_of_a_request(self, vault: Vault, server: Running) -> None:
        """Whatever arrives of a lease's ask, there is one whole lease or none."""
        ask, _ = vault.ask("m")
        body = msgspec.json.encode(ask)
        whole = head(
            vault, "POST", "/v1/leases", "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ) + body  # fmt: skip
        before = len(vault.entries("load"))
        for end in range(0, len(whole), 97):
            with server.open() as connection:
                connection.sendall(whole[:end])
        until(lambda: not server.connections())
        assert len(vault.entries("load")) == before
        answer = server.raw(whole.replace(b"Host: x", b"Host: x\r\nConnection: close"))
        assert answer.status == 200
        again = server.raw(whole.replace(b"Host: x", b"Host: x\r\nConnection: close"))
        assert again.json()["id"] == answer.json()["id"]

    def test_while_the_answer_is_made(self, vault: Vault, server: Running) -> None:
        """The broker has granted it; the same ask again gets that very lease."""
        ask, _ = vault.ask("m")
        body = msgspec.json.encode(ask)
        whole = head(
            vault, "POST", "/v1/leases", "Content-Type: application/json",
            f"Content-Length: {len(body)}", "Connection: close",
        ) + body  # fmt: skip
        before = len(vault.broker.leases(vault.caller()))
        with server.open() as connection:
            connection.sendall(whole)
        until(lambda: len(vault.broker.leases(vault.caller())) == before + 1)
        assert server.raw(whole).status == 200
        assert len(vault.broker.leases(vault.caller())) == before + 1


def test_64_leases_at_once(vault: Vault, server: Running) -> None:
    """Each with its own keys, none with another's."""
    found: dict[int, tuple[bytes, Answer]] = {}

    def take(number: int) -> None:
        ask, _ = vault.ask("m")
        body = msgspec.json.encode(ask)
        token = vault.token(f"job-{number}")
        found[number] = ask.nonce, server.ask("POST", "/v1/leases", body=body, token=token)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[number][1].status for number in range(64)] == [200] * 64
    leases = [found[number][1].json() for number in range(64)]
    assert len({lease["id"] for lease in leases}) == 64
    assert len({lease["sealed"] for lease in leases}) == 64


def test_nothing_of_a_secret_is_said(
    vault: Vault, server: Running, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Neither the token, nor its parts, nor what was sent, whatever goes wrong."""
    caplog.set_level(1)
    secret = "S3CR3T" * 8
    token = vault.token(claims={"canary": secret})
    said = b""
    for method, path, body in (
        ("GET", "/v1/whoami?x=" + secret, None),
        ("GET", "/v1/" + secret, None),
        ("POST", "/v1/leases", b'{"purpose":"' + secret.encode() + b'"'),
        ("POST", "/v1/tags", b'{"' + secret.encode() + b'":1}'),
        ("DELETE", "/v1/leases/" + secret, None),
    ):
        said += server.ask(method, path, body=body, token=token).body
        said += server.ask(method, path, body=body, token=secret).body
    shown = said.decode() + "".join(str(record.__dict__) for record in caplog.records)
    for part in token.split("."):
        assert part not in shown
    assert secret not in caplog.text
    logged = [r for r in caplog.records if r.name == "modelvault.access"]
    assert len(logged) == 10
