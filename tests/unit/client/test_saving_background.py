"""Saves in the background: waited for, one at a time, and no error of one is lost."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from modelvault.client.saving_background import Saving, Savings
from modelvault.errors import Conflict, Unavailable


def failing(code: str) -> Callable[[], str]:
    def work() -> str:
        raise Unavailable(code, f"it is {code}")

    return work


def ended(reference: str, work: Callable[[], str]) -> Saving[str]:
    saving = Saving(reference, work)
    saving._ended.wait(10)
    return saving


def test_what_it_gives() -> None:
    release = threading.Event()
    saving = Saving("run:step-1", lambda: str(release.wait(10)))
    assert (saving.done, saving.error) == (False, None)
    assert repr(saving) == "<Saving of run:step-1: running>"
    with pytest.raises(Unavailable) as slow:
        saving.wait(0.01)
    assert slow.value.code == "still_saving"
    release.set()
    assert saving.wait() == saving.wait(0) == "True"
    assert saving.done
    assert repr(saving) == "<Saving of run:step-1: done>"


def test_its_error_comes_out_of_each_wait() -> None:
    saving = ended("run:step-1", failing("down"))
    assert isinstance(saving.error, Unavailable)
    assert repr(saving) == "<Saving of run:step-1: failed>"
    for _ in range(2):
        with pytest.raises(Unavailable, match="it is down"):
            saving.wait()


def test_what_the_work_holds_goes_with_its_end() -> None:
    class Held:
        pass

    import weakref

    held = Held()
    gone = weakref.ref(held)

    def work(held: object = held) -> str:
        return "done"

    del held
    saving = ended("run", work)
    del work
    assert gone() is None
    assert saving.wait() == "done"


def test_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(Unavailable) as refused:
        Saving("run", lambda: "done")
    assert refused.value.code == "no_thread"


def test_a_fork_doesnt_wait_for_what_it_never_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    savings, release = Savings(), threading.Event()
    saving = savings.begin(lambda: Saving("run", lambda: str(release.wait(10))))
    with monkeypatch.context() as patch:
        patch.setattr("os.getpid", lambda: 1)
        with pytest.raises(Conflict) as refused:
            saving.wait()
        assert refused.value.code == "other_process"
        assert savings.begin(lambda: Saving("run", lambda: "its own")).wait() == "its own"
        savings.finish()
    release.set()
    assert saving.wait() == "True"


class TestSavings:
    def test_one_at_a_time(self) -> None:
        savings, release = Savings(), threading.Event()
        first = savings.begin(lambda: Saving("run:step-1", lambda: str(release.wait(10))))
        with pytest.raises(Conflict) as refused:
            savings.begin(lambda: Saving("run:step-2", lambda: "two"))
        assert refused.value.code == "save_running"
        assert "run:step-1" in refused.value.message
        release.set()
        first.wait()
        assert savings.begin(lambda: Saving("run:step-2", lambda: "two")).wait() == "two"
        savings.finish()

    def test_one_that_couldnt_begin_is_none(self) -> None:
        savings = Savings()

        def refuse() -> Saving[str]:
            raise Unavailable("insufficient_memory", "too large")

        with pytest.raises(Unavailable):
            savings.begin(refuse)
        assert savings.begin(lambda: Saving("run", lambda: "one")).wait() == "one"

    def test_the_end_waits_and_raises_what_nobody_saw(self) -> None:
        savings = Savings()
        for at, code in enumerate(("full", "seen", "down")):
            saving = savings.begin(lambda at=at, code=code: ended(f"run:step-{at}", failing(code)))
            if code == "seen":
                with pytest.raises(Unavailable):
                    saving.wait()
        with pytest.raises(Unavailable) as told:
            savings.finish()
        assert told.value.code == "full"
        assert told.value.__notes__[-2:] == [
            "this was the save of run:step-0 in the background",
            "the save of run:step-2 failed, too: it is down",
        ]
        savings.finish()  # each is told once
        with pytest.raises(Conflict) as refused:
            savings.begin(lambda: Saving("run", lambda: "late"))
        assert refused.value.code == "closed"

    def test_the_end_of_one_that_runs(self) -> None:
        savings, release, order = Savings(), threading.Event(), []

        def work() -> str:
            release.wait(10)
            order.append("saved")
            return "done"

        savings.begin(lambda: Saving("run", work))
        threading.Timer(0.05, release.set).start()
        savings.finish()
        assert order == ["saved"]

    def test_what_was_seen_isnt_told_again(self) -> None:
        savings = Savings()
        with pytest.raises(Unavailable):
            savings.begin(lambda: Saving("run", failing("down"))).wait()
        savings.finish()

    def test_a_script_that_just_ends_is_told(self) -> None:
        ended = subprocess.run(
            [sys.executable, "-c", _ENDS], capture_output=True, text=True, timeout=60, check=True
        )
        assert "it is down" in ended.stderr
        assert "the save of run:step-1 in the background" in ended.stderr
        assert "it is seen" not in ended.stderr


_ENDS = """
import time
from modelvault.client.saving_background import Saving, Savings
from modelvault.errors import Unavailable

def fail(code, after_s):
    time.sleep(after_s)
    raise Unavailable(code, f"it is {code}")

closed = Savings()
closed.begin(lambda: Saving("run:step-0", lambda: fail("seen", 0)))
try:
    closed.finish()
except Unavailable:
    pass
Savings().begin(lambda: Saving("run:step-1", lambda: fail("down", 0.2)))
"""
