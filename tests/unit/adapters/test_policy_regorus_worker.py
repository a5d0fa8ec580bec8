"""The worker's side of the conversation, in this process and without its limits."""

from __future__ import annotations

import json
import resource
import socket
import struct
import threading
from types import SimpleNamespace

import pytest
import regorus

from modelvault.adapters import policy_regorus_worker as worker

RULES = (
    'package a\n\nx := {"n": input.n} if input.n != "boom"\n\nx := to_number("z") if input.boom\n'
)


@pytest.fixture
def limits():
    return []


@pytest.fixture
def talk(monkeypatch, limits):
    """A function that sends frames to a worker and hears its answer to each."""
    ours, theirs = socket.socketpair()
    quiet = SimpleNamespace(
        **{name: getattr(resource, name) for name in dir(resource) if name.startswith("R")},
        getrusage=resource.getrusage,
        setrlimit=lambda what, value: limits.append((what, value)),
    )
    monkeypatch.setattr(worker, "resource", quiet)
    plain = SimpleNamespace(socket=lambda fileno: theirs, MSG_WAITALL=socket.MSG_WAITALL)
    monkeypatch.setattr(worker, "socket", plain)
    thread = threading.Thread(target=worker.main)
    thread.start()
    ours.settimeout(10)

    def send(message: dict | str) -> bytes:
        frame = (message if isinstance(message, str) else json.dumps(message)).encode()
        ours.sendall(struct.pack(">I", len(frame)) + frame)
        size = struct.unpack(">I", ours.recv(4, socket.MSG_WAITALL))[0]
        return ours.recv(size, socket.MSG_WAITALL)

    yield send
    ours.close()
    thread.join(10)
    theirs.close()
    assert not thread.is_alive()


def setup(**changes):
    return {
        "modules": {"a.rego": RULES},
        "data": "{}",
        "rule": "data.a.x",
        "packages": "/nowhere",
        "memory_bytes": 1 << 28,
        "answer_bytes": 200,
        "cpu_s": 3,
        **changes,
    }


def test_a_conversation(talk, limits):
    ready = talk(setup())
    assert ready[:1] == b"R"
    (facts,) = json.loads(ready[1:])
    assert (facts["path"], facts["package"]) == ("a.rego", "a")
    assert facts["rules"] == [["x", 3], ["x", 5]]
    assert facts["references"] == [["to_number", 5]]
    answer = talk({"n": 5})
    assert (answer[:1], json.loads(answer[1:])) == (b"V", {"n": 5})
    assert talk({"n": "y" * 300}) == b"Ethe answer is too long"
    assert talk({"n": "boom", "boom": True}) == b"Ean error at a.rego:5"
    assert talk("not json") == b"Ean error"
    assert json.loads(talk({"n": None})[1:]) == {"n": None}
    assert {what for what, _ in limits} == {
        resource.RLIMIT_AS,
        resource.RLIMIT_NOFILE,
        resource.RLIMIT_FSIZE,
        resource.RLIMIT_CORE,
        resource.RLIMIT_CPU,
    }
    assert limits[0] == (resource.RLIMIT_AS, (1 << 28, 1 << 28))  # before regorus reserves memory


def test_modules_and_data_that_are_refused(talk):
    answer = talk(setup(modules={"a.rego": "package (", "b.rego": RULES}, data="{"))
    assert answer[:1] == b"F"
    assert [(file, line > 0) for file, line, _ in json.loads(answer[1:])] == [
        ("a.rego", True),
        ("data.json", False),
    ]


def references(rule):
    engine = regorus.Engine()
    engine.add_policy("a.rego", f"package a\n\n{rule}\n")
    (facts,) = worker.facts(json.loads(engine.get_ast_as_json()))
    return {name for name, _ in facts["references"]}


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ("x := http.send({})", {"http.send"}),
        ('x := http["send"]({})', {"http.send"}),
        ("x if { y := [1]; y[0].z == 1 }", set()),
        ("x if input.a.b == data.c.d", set()),
        ("x if { some y in [1]; input[y] == 1 }", set()),
        ("x if { y := {}; y.a.b == count([1]) }", {"y.a", "y.a.b", "count"}),
        ("x := n if n := count([1]) with count as http.send", {"count", "http.send"}),
    ],
)
def test_references(rule, found):
    assert references(rule) == found


def test_every_kind_of_rule_head_has_a_name():
    rules = [
        "default a := 1",
        "b contains 1 if true",
        "c[x] := 1 if some x in [1]",
        "d.e.f := 3",
        "g(x) := x",
        'h["i"] := 1',
        "j := {} if { every x in [1] { x > 0 } } else := 2",
    ]
    engine = regorus.Engine()
    engine.add_policy("a.rego", "\n".join(["package a", *rules]))
    (facts,) = worker.facts(json.loads(engine.get_ast_as_json()))
    assert [name for name, _ in facts["rules"]] == ["a", "b", "c", "d", "g", "h", "j"]
    assert [line for _, line in facts["rules"]] == [2, 3, 4, 5, 6, 7, 8]
