"""Sharing out blocks."""

from __future__ import annotations

import contextlib
import gc
import threading
from itertools import chain

import pytest

from modelvault.artifact.parallel import run_blocks


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(("count", "block"), [(0, 3), (1, 3), (3, 3), (4, 3), (100, 7)])
def test_each_piece_once(count: int, block: int, threads: int) -> None:
    done: list[range] = []
    run_blocks(lambda start, stop: done.append(range(start, stop)), count, block, threads)
    assert sorted(chain.from_iterable(done)) == list(range(count))
    assert all(len(piece) == block for piece in sorted(done, key=min)[:-1])


def test_several_threads_work_at_once_the_caller_among_them() -> None:
    together, seen = threading.Barrier(3, timeout=10), set()

    def work(_start: int, _stop: int) -> None:
        together.wait()
        seen.add(threading.get_ident())

    run_blocks(work, 3, 1, 3)
    assert len(seen) == 3
    assert threading.get_ident() in seen


def test_a_single_block_stays_in_the_callers_thread() -> None:
    seen = set()
    run_blocks(lambda _start, _stop: seen.add(threading.get_ident()), 5, 5, 8)
    assert seen == {threading.get_ident()}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("failure", [ValueError("x"), KeyboardInterrupt()])
def test_the_first_error_stops_the_rest_and_all_threads_have_ended(
    threads: int, failure: BaseException
) -> None:
    begun = []

    def work(start: int, _stop: int) -> None:
        begun.append(start)
        raise failure

    before = threading.active_count()
    with pytest.raises(type(failure)) as error:
        run_blocks(work, 1000, 1, threads)
    assert error.value is failure
    assert len(begun) <= threads
    assert threading.active_count() == before


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_that_is_gone_keeps_no_buffer_alive(threads: int) -> None:
    buffer = bytearray(100)

    def failing_over(view: memoryview) -> None:
        def work(_start: int, _stop: int) -> None:
            raise ValueError(len(view))

        run_blocks(work, 10, 1, threads)

    gc.disable()
    try:
        with contextlib.suppress(ValueError):
            failing_over(memoryview(buffer))
        buffer.extend(b"not exported any more")
    finally:
        gc.enable()


@pytest.mark.parametrize("given", [0, 1])
def test_without_further_threads_those_that_there_are_do_it(
    monkeypatch: pytest.MonkeyPatch, given: int
) -> None:
    start = threading.Thread.start
    started: list[threading.Thread] = []
    done: list[int] = []

    def limited(thread: threading.Thread) -> None:
        if len(started) == given:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    run_blocks(lambda at, _stop: done.append(at), 100, 1, 4)
    assert sorted(done) == list(range(100))
    assert not any(thread.is_alive() for thread in started)
