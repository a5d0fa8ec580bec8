"""Health, readiness and OPA's bundle."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from modelvault.errors import InvalidRequest, Unavailable
from modelvault.server import operators
from modelvault.server.metrics import Metrics
from modelvault.server.operators import Readiness
from modelvault.server.service import Service
from support.serving import Running, until
from support.stub_broker import StubBroker

OPA = {"Authorization": "Bearer opas-own"}


class TestHealth:
    def test_it_lives(self, running: Running) -> None:
        answer = running.ask("GET", "/healthz", token=None)
        assert (answer.status, answer.json()) == (200, {"status": "ok"})

    def test_its_interface(self, running: Running) -> None:
        assert running.ask("GET", "/openapi.json", token=None).json()["openapi"] == "3.1.0"


class TestReadiness:
    def test_all_well(self, running: Running) -> None:
        answer = running.ask("GET", "/readyz", token=None)
        assert (answer.status, answer.json()) == (200, {"status": "ready", "parts": {}})

    def test_a_part_is_down(self) -> None:
        states = {"ledger": None, "keys": "key_service_unavailable"}
        with Running(StubBroker(), states=lambda: states) as server:
            answer = server.ask("GET", "/readyz", token=None)
            text = server.metrics.text().decode()
        assert (answer.status, answer.json()) == (503, {
            "status": "not ready", "parts": {"ledger": "ok", "keys": "key_service_unavailable"},
        })  # fmt: skip
        assert 'modelvault_part_up{part="ledger"} 1.0' in text
        assert 'modelvault_part_up{part="keys"} 0.0' in text

    def test_a_stop_has_begun(self) -> None:
        with Running(StubBroker(), states=lambda: {"ledger": None}, draining=lambda: True) as on:
            answer = on.ask("GET", "/readyz", token=None)
        assert (answer.status, answer.json()["parts"]["server"]) == (503, "stopping")


class TestAskingTheParts:
    def test_at_most_once_a_second(self) -> None:
        now = [0]
        asked: list[int] = []

        def states() -> dict[str, str | None]:
            asked.append(now[0])
            return {"n": str(len(asked))}

        readiness = Readiness(states, lambda: now[0])
        assert [readiness.states()["n"] for _ in range(5)] == ["1"] * 5
        now[0] = 999
        assert readiness.states() == {"n": "1"}
        now[0] = 1000
        assert readiness.states() == {"n": "2"}
        assert asked == [0, 1000]

    def test_one_asks_and_the_others_get_what_was_known(self) -> None:
        now = [0]
        entered, go = threading.Event(), threading.Event()
        answers: list[Any] = [{"old": None}]

        def states() -> dict[str, str | None]:
            if now[0]:
                entered.set()
                assert go.wait(10)
                return {"new": None}
            return {"old": None}

        readiness = Readiness(states, lambda: now[0])
        assert readiness.states() == {"old": None}
        now[0] = 5000
        asking = threading.Thread(target=lambda: answers.append(readiness.states()))
        asking.start()
        assert entered.wait(10)
        assert readiness.states() == {"old": None}
        go.set()
        asking.join(10)
        assert answers[-1] == readiness.states() == {"new": None}

    def test_the_first_ones_wait_for_one_answer(self) -> None:
        asked: list[int] = []
        barrier = threading.Barrier(4)
        answers: list[Any] = []

        def states() -> dict[str, str | None]:
            asked.append(1)
            time.sleep(0.05)
            return {"a": None}

        readiness = Readiness(states, lambda: 0)

        def ask() -> None:
            barrier.wait(10)
            answers.append(readiness.states())

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert (asked, answers) == ([1], [{"a": None}] * 4)

    def test_a_mistake_of_the_askers_isnt_kept(self) -> None:
        fails = [True]

        def states() -> dict[str, str | None]:
            if fails.pop():
                raise ArithmeticError
            return {"a": None}

        fails.insert(0, False)
        readiness = Readiness(states, lambda: 0)
        with pytest.raises(ArithmeticError):
            readiness.states()
        assert readiness.states() == {"a": None}


class Policies:
    """What the ledger says is in force, and its archives."""

    def __init__(self) -> None:
        self.revision: str | None = "sha256:1"
        self.looks = 0

    def look(self) -> str | None:
        self.looks += 1
        return self.revision

    def archive(self, revision: str) -> bytes:
        if revision == "sha256:bad":
            raise Unavailable("policy_unavailable", "altered")
        return f"archive of {revision}".encode()


class TestBundle:
    @pytest.fixture
    def policies(self) -> Policies:
        return Policies()

    @pytest.fixture
    def serving(self, policies: Policies) -> Iterator[Running]:
        with Running(
            StubBroker(), revision=policies.look, bundle=policies.archive, bundle_token="opas-own"
        ) as server:
            yield server

    def get(self, serving: Running, **headers: str) -> Any:
        return serving.ask("GET", "/v1/policy/bundle", token=None, headers=OPA | headers)

    def test_it_and_its_name(self, serving: Running) -> None:
        answer = self.get(serving)
        assert (answer.status, answer.body) == (200, b"archive of sha256:1")
        assert answer.headers["etag"] == '"sha256:1"'
        assert answer.headers["content-type"] == "application/vnd.openpolicyagent.bundles"

    @pytest.mark.parametrize(
        "headers",
        [{}, {"Authorization": "Bearer other"}, {"Authorization": "opas-own"},
         {"Authorization": "Bearer opas-own\r\nAuthorization: Bearer opas-own"},
         {"Authorization": "Bearer opäs-own"}],
    )  # fmt: skip
    def test_only_for_opa(self, serving: Running, headers: dict[str, str]) -> None:
        answer = serving.ask("GET", "/v1/policy/bundle", token=None, headers=headers)
        assert (answer.status, answer.code) == (401, "bad_token")

    def test_known_already(self, serving: Running) -> None:
        answer = self.get(serving, **{"If-None-Match": '"sha256:1"'})
        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["etag"] == '"sha256:1"'

    def test_a_new_one_ends_the_wait(self, serving: Running, policies: Policies) -> None:
        answers: list[Any] = []
        headers = {"If-None-Match": '"sha256:1"', "Prefer": "modes=snapshot,delta;wait=30"}
        asking = threading.Thread(target=lambda: answers.append(self.get(serving, **headers)))
        asking.start()
        until(lambda: policies.looks >= 2)
        policies.revision = "sha256:2"
        asking.join(10)
        assert answers[0].body == b"archive of sha256:2"

    def test_a_wait_ends(
        self, serving: Running, policies: Policies, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(operators, "_LOOK_S", 0.5)
        answer = self.get(serving, **{"If-None-Match": '"sha256:1"', "Prefer": "wait=1"})
        assert (answer.status, policies.looks) == (304, 3)

    def test_so_it_does_when_the_asker_has_gone(self, serving: Running, policies: Policies) -> None:
        with serving.open() as connection:
            connection.sendall(
                b"GET /v1/policy/bundle HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer opas-own\r\n"
                b'If-None-Match: "sha256:1"\r\nPrefer: wait=30\r\n\r\n'
            )
            until(lambda: policies.looks >= 1)
        time.sleep(0.6)
        looks = policies.looks
        time.sleep(0.6)
        assert policies.looks == looks

    def test_a_stop_ends_it_too(self, policies: Policies) -> None:
        answers: list[Any] = []
        headers = {"If-None-Match": '"sha256:1"', "Prefer": "wait=30"}
        server = Running(
            StubBroker(), revision=policies.look, bundle=policies.archive, bundle_token="opas-own"
        )
        asking = threading.Thread(target=lambda: answers.append(self.get(server, **headers)))
        asking.start()
        until(lambda: policies.looks >= 1)
        server.stop()
        asking.join(10)
        assert answers[0].status == 304

    def test_none_yet(self, serving: Running, policies: Policies) -> None:
        policies.revision = None
        answer = self.get(serving)
        assert (answer.status, answer.code) == (404, "no_policy")

    def test_one_that_cant_be_had(self, serving: Running, policies: Policies) -> None:
        policies.revision = "sha256:bad"
        assert self.get(serving).code == "policy_unavailable"

    def test_not_without_an_engine_that_wants_it(self, running: Running) -> None:
        answer = running.ask("GET", "/v1/policy/bundle", token=None, headers=OPA)
        assert answer.code == "no_route"

    @pytest.mark.parametrize("token", [None, ""])
    def test_never_open_to_everybody(self, token: str | None) -> None:
        with pytest.raises(InvalidRequest) as caught:
            Service(
                broker=None, steward=None, states=dict, metrics=Metrics(), revision=lambda: None,
                bundle=lambda _: b"", bundle_token=token,
            )  # fmt: skip
        assert caught.value.code == "bad_deployment"

    def test_its_token_isnt_shown(self) -> None:
        service = Service(
            broker=None, steward=None, states=dict, metrics=Metrics(), revision=lambda: None,
            bundle=lambda _: b"", bundle_token="opas-own",
        )  # fmt: skip
        assert "opas-own" not in repr(service)
