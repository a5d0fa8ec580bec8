"""The table of calls says all that both sides need, and leaves no call of the ports out."""

from __future__ import annotations

import inspect
import re

import msgspec
import pytest

from modelvault.adapters.broker_http import RemoteBroker
from modelvault.broker.service import LocalBroker
from modelvault.errors import NotFound
from modelvault.ports.broker import Broker, Steward
from modelvault.server.routes import ANSWERS
from modelvault.wire.calls import CALLS, Call, check_id


def names(port: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(port, inspect.isfunction) if name[0] != "_"}


@pytest.mark.parametrize(("side", "port"), [("broker", Broker), ("steward", Steward)])
def test_each_call_of_the_ports_has_its_route(side: str, port: type) -> None:
    assert {call.name for call in CALLS.values() if call.side == side} == names(port)
    assert names(port) <= ANSWERS.keys()


@pytest.mark.parametrize("name", sorted(names(Broker) | names(Steward)))
def test_far_takes_what_near_takes(name: str) -> None:
    near = inspect.signature(getattr(LocalBroker, name))
    far = inspect.signature(getattr(RemoteBroker, name))
    assert str(near) == str(far)


def test_no_two_calls_share_a_route() -> None:
    routes = [(call.method, re.sub(r"\{\w+\}", "*", call.path)) for call in CALLS.values()]
    assert len(set(routes)) == len(routes)


@pytest.mark.parametrize("call", CALLS.values(), ids=lambda call: call.name)
def test_bodies_are_understood_strictly(call: Call) -> None:
    if call.body is None:
        return
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"unknown": 1}', type=call.body)


@pytest.mark.parametrize(
    "id", ["", ".", "..", "a/b", "../x", "a%2fb", "a b", "a\n", "a" * 65, "é", "a?b", "a#b", "\0"]
)
def test_what_cant_be_an_id(id: str) -> None:
    for name, code in (("commit", "no_upload"), ("renew", "no_lease")):
        with pytest.raises(NotFound) as caught:
            check_id(CALLS[name], id)
        assert caught.value.code == code


def test_what_can() -> None:
    check_id(CALLS["commit"], "0" * 32)
    check_id(CALLS["whoami"], "")
