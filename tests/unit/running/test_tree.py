from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from modelvault.running import tree
from modelvault.running.tree import Process
from support.runs import eventually, lives


@pytest.fixture
def start() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    started = []

    def shell(script: str) -> subprocess.Popen[str]:
        line = ["sh", "-c", f"{script}\necho ready\nread end"]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(line, stdin=pipe, stdout=pipe, text=True))
        assert started[-1].stdout.readline() == "ready\n"
        return started[-1]

    yield shell
    for process in started:
        tree.kill(process.pid, reap)
        process.kill()
        process.wait()
        process.stdout.close()
        process.stdin.close()


def reap() -> None:
    """What is below here is none of our own children."""


def test_descendants_at_any_depth(start: Callable[[str], subprocess.Popen[str]]) -> None:
    process = start("sleep 1000 & (sleep 1000 & sleep 1000 & wait) &")
    eventually(lambda: len(tree.descendants(process.pid)) == 4)
    found = tree.descendants(process.pid)
    assert {one.parent for one in found} <= {process.pid, *(one.pid for one in found)}
    assert any(one.pid == process.pid for one in tree.descendants(os.getpid()))
    tree.kill(process.pid, reap)
    assert tree.descendants(process.pid) == []


def test_asked_first_then_killed(start: Callable[[str], subprocess.Popen[str]]) -> None:
    process = start("(trap '' TERM; while :; do sleep 0.05; done) & sleep 1000 &")
    before = tree.descendants(process.pid)
    times = iter(range(0, 1 << 30, 200))  # each look at the clock is 200 ms later
    tree.end(process.pid, 1, reap, lambda: next(times))
    eventually(lambda: not any(map(lives, before)))


def test_a_stopped_process_hears_of_it(start: Callable[[str], subprocess.Popen[str]]) -> None:
    process = start("sleep 1000 & kill -STOP $!")
    before = tree.descendants(process.pid)
    assert [tree.stopped(one.pid) for one in before] == [True]
    assert not tree.stopped(process.pid)
    assert not tree.stopped(1 << 22)
    tree.end(process.pid, 60, reap)
    assert not any(map(lives, before))


def test_another_process_of_that_number_gets_nothing(
    start: Callable[[str], subprocess.Popen[str]],
) -> None:
    process = start("true")
    me = tree._read(process.pid)
    assert me is not None
    assert me.parent == os.getpid()
    wrong = (me._replace(started=me.started - 1), Process(1 << 22, 1, 1, False))
    assert [tree._send(one, (signal.SIGKILL,)) for one in wrong] == [False, False]
    assert process.poll() is None


def test_names_that_look_like_the_rest_of_the_line(tmp_path) -> None:
    program = tmp_path / "a) Z 1 (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "1000"]) as process:
        eventually(lambda: b"Z 1" in (tmp_path / f"/proc/{process.pid}/stat").read_bytes())
        found = tree._read(process.pid)
        assert found is not None
        assert (found.parent, found.ended) == (os.getpid(), False)
        process.kill()
