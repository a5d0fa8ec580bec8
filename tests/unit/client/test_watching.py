"""A tag is followed: what serves, what happens when it moves, and what where that can't be had."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import operator
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from modelvault.access import Obligations
from modelvault.client import keeper
from modelvault.client.pins import Pins
from modelvault.client.session import Session
from modelvault.client.watching import attempts
from modelvault.client.watching import session as watching
from modelvault.client.watching.attempts import Attempts
from modelvault.errors import (
    AccessDenied,
    Conflict,
    IntegrityError,
    InvalidRequest,
    ModelVaultError,
    NotFound,
    Unavailable,
)
from modelvault.loader import memory
from modelvault.loader.model import Model
from support.honest import HonestBroker, Store, context
from support.serving import until

SIZE = 40_000
TTL_S = 36_000
SWAPS = ["beside", "in_place"]


def content(version: int) -> bytes:
    return bytes([version]) * SIZE


class Scene:
    """A vault with three versions of `m`; `prod` means the first. Each file is all of one byte, the
    version's number."""

    def __init__(self, tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch
        self.broker = HonestBroker()
        self.broker.ttl_s = TTL_S
        patch.setattr(keeper, "_LONGEST_WAIT_S", 0.05)  # the clock here doesn't tick by itself
        self.store = Store()
        self.now = 1_000_000
        pins = Pins(None, self.broker.keys.vault)
        self.context = context(self.broker, store=self.store, pins=pins, clock=lambda: self.now)
        self.session = Session(self.context)
        for version in (1, 2, 3):
            folder = tmp_path / str(version)
            folder.mkdir()
            for name in ("a.dat", "b.dat"):
                (folder / name).write_bytes(content(version))
            self.session.push(folder, "m:latest")
        self.session.tag("m@1", "prod")
        self.changes: list[tuple[str, str]] = []
        self.errors: list[Exception] = []

    def watch(self, **more: Any) -> Any:
        told = {
            "purpose": "inference",
            "every_s": 0.01,
            "on_change": lambda old, new: self.changes.append((old, new)),
            "on_error": self.errors.append,
        }
        return self.session.watch("m:prod", **(told | more))

    def move(self, version: int) -> None:
        self.session.tag(f"m@{version}", "prod")

    def codes(self) -> list[str]:
        return [error.code for error in self.errors if isinstance(error, ModelVaultError)]

    def spoil(self, version: int, path: str = "b.dat") -> Callable[[], None]:
        """Alter the ciphertext of a file; the answer mends it."""
        manifest = self.broker.manifests["default", "m"][version - 1]
        entry = manifest.file(path)
        assert entry is not None
        good = self.store.objects[entry.object]
        self.store.objects[entry.object] = good[:-1] + bytes([good[-1] ^ 1])
        return lambda: self.store.objects.update({entry.object: good})


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    patch = pytest.MonkeyPatch()
    made = Scene(tmp_path, patch)
    yield made
    patch.undo()
    made.session.close()


def answer(live: Any) -> int:
    """A request: reads both files, and says which version answered."""
    with live.model() as model:
        version = model.manifest.version
        assert model.read_bytes("a.dat") == model.read_bytes("b.dat") == content(version)
    return version


class Memory:
    """Bytes of plaintext regions that are mapped: now, and at most."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()
        real_map, real_del = memory._map, memory._Memory.__del__

        def mapped(size: int) -> Any:
            with self._lock:
                self.now += size
                self.most = max(self.most, self.now)
            return real_map(size)

        def unmapped(region: Any) -> None:
            with self._lock:
                self.now -= len(region)
            real_del(region)

        monkeypatch.setattr(memory, "_map", mapped)
        monkeypatch.setattr(memory._Memory, "__del__", unmapped)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Memory:
    return Memory(monkeypatch)


@pytest.mark.parametrize("swap", SWAPS)
def test_it_follows(scene: Scene, swap: str) -> None:
    with scene.watch(swap=swap) as live:
        assert live.ready
        assert (live.name, answer(live)) == ("m@1", 1)
        scene.move(3)
        until(lambda: live.name == "m@3")
        assert answer(live) == 3
        scene.move(2)  # backwards, by a newer record
        until(lambda: live.name == "m@2")
        assert answer(live) == 2
        until(lambda: len(scene.broker.released) == 2)
        assert repr(live) == "<Live m@2>"
    assert scene.changes == [("m@1", "m@3"), ("m@3", "m@2")]
    assert scene.errors == []
    assert len(scene.broker.released) == 3
    assert not live.ready


def test_a_bare_name_means_the_newest(scene: Scene, tmp_path: Path) -> None:
    with scene.session.watch("m", purpose="inference", every_s=0.01) as live:
        assert answer(live) == 3
        folder = tmp_path / "4"
        folder.mkdir()
        for name in ("a.dat", "b.dat"):
            (folder / name).write_bytes(content(4))
        scene.session.push(folder, "m")
        until(lambda: live.name == "m@4")
        assert answer(live) == 4


def test_a_tag_that_stays_costs_a_look(scene: Scene) -> None:
    with scene.watch() as live:
        reads = len(scene.store.reads)
        looks = []
        real = scene.broker.show
        scene.broker.show = lambda *told: (looks.append(1), real(*told))[1]  # type: ignore[method-assign]
        until(lambda: len(looks) > 3)
        scene.session.tag("m@1", "prod")  # the same version under a newer record
        before = len(looks)
        until(lambda: len(looks) > before + 2)
        assert len(scene.store.reads) == reads
        assert live.name == "m@1"
    assert scene.broker.released != []
    assert scene.changes == []


@pytest.mark.parametrize("swap", SWAPS)
def test_continuous_requests_while_it_moves(scene: Scene, swap: str, counted: Memory) -> None:
    """No error, no mixed answer; memory holds two versions at most, or one."""
    stop = threading.Event()
    problems: list[BaseException] = []
    answers: list[list[int]] = [[] for _ in range(4)]

    def requests(mine: list[int]) -> None:
        try:
            while not stop.is_set():
                mine.append(answer(live))
        except BaseException as error:  # noqa: BLE001
            problems.append(error)

    with scene.watch(swap=swap, every_s=0.002) as live:
        threads = [threading.Thread(target=requests, args=(each,)) for each in answers]
        for each in threads:
            each.start()
        for turn in range(20):
            version = 1 + (turn + 1) % 3
            scene.move(version)
            until(lambda: len(scene.changes) > turn or bool(problems))  # noqa: B023
        stop.set()
        for each in threads:
            each.join()
        assert problems == []
        assert scene.errors == []
        assert len(scene.changes) == 20
        assert set(answers[0]) == {1, 2, 3}
        versions = 2 if swap == "beside" else 1
        assert counted.most == versions * 2 * SIZE
        until(lambda: counted.now == 2 * SIZE)
    assert counted.now == 0


@pytest.mark.parametrize("swap", SWAPS)
def test_a_request_keeps_its_version(scene: Scene, swap: str) -> None:
    """Also in a request within it, and as long as it takes."""
    with scene.watch(swap=swap) as live, ExitStack() as stack:
        first = stack.enter_context(live.model())
        scene.move(2)
        if swap == "beside":
            until(lambda: live.name == "m@2")
            assert len(scene.broker.released) == 0
            other: list[int] = []
            thread = threading.Thread(target=lambda: other.append(answer(live)))
            thread.start()
            thread.join()
            assert other == [2]
        else:
            until(lambda: not live.ready)
            with pytest.raises(Unavailable) as caught:
                _in_thread(lambda: _enter(live, 0.01))
            assert caught.value.code == "swapping"
        with live.model() as within:
            assert within is first
        assert answer(live) == 1
        stack.close()
        until(lambda: live.name == "m@2" and live.ready)
        assert answer(live) == 2
        until(lambda: len(scene.broker.released) == 1)
        assert first.closed
        del first, within


def test_a_task_that_outlives_its_request_gets_what_serves(scene: Scene) -> None:
    """It has a copy of the request's context, also while another request still has that version."""
    with scene.watch() as live, ExitStack() as stack:
        with live.model():
            task = contextvars.copy_context()
        contextvars.Context().run(stack.enter_context, live.model())
        scene.move(2)
        until(lambda: live.name == "m@2")
        assert task.run(answer, live) == 2


def _enter(live: Any, wait_s: float | None = None) -> None:
    with live.model(wait_s):
        pass


def _in_thread(call: Callable[[], None]) -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


@pytest.mark.parametrize("swap", SWAPS)
def test_what_was_prepared_is_of_the_same_version(scene: Scene, swap: str) -> None:
    made: list[int] = []

    def prepare(model: Model) -> tuple[int, memoryview]:
        made.append(model.manifest.version)
        return model.manifest.version, model.read_bytes("a.dat")

    with scene.watch(swap=swap, prepare=prepare) as live:
        for version in (2, 1, 3):
            scene.move(version)
            until(lambda: live.name == f"m@{version}")  # noqa: B023
            with live.prepared() as (number, view), live.model() as model:
                assert number == view[0] == model.manifest.version == version
            del view
        until(lambda: len(scene.broker.released) == 3)
    assert made == [1, 2, 1, 3]
    assert scene.errors == []


def failing_store(scene: Scene, _live: Any) -> Callable[[], None]:
    return scene.spoil(2)


def failing_lease(scene: Scene, _live: Any) -> Callable[[], None]:
    real = scene.broker.lease

    def denied(*_: object) -> None:
        raise AccessDenied("denied", "not this one")

    scene.broker.lease = denied  # type: ignore[method-assign,assignment]
    return lambda: setattr(scene.broker, "lease", real)


def failing_memory(scene: Scene, _live: Any) -> Callable[[], None]:
    def full(size: int) -> None:
        raise Unavailable("insufficient_memory", f"no {size} bytes")

    scene.patch.setattr(watching, "check_fits", full)
    return scene.patch.undo


@pytest.mark.parametrize(
    ("fail", "code"),
    [
        (failing_store, "altered"),
        (failing_lease, "denied"),
        (failing_memory, "insufficient_memory"),
    ],
)
@pytest.mark.parametrize("swap", SWAPS)
def test_a_version_that_cant_be_had_leaves_the_old_one_serving(
    scene: Scene, swap: str, fail: Callable[[Scene, Any], Callable[[], None]], code: str
) -> None:
    """It is told once, and tried again less and less often; when it can be had, it is."""
    with scene.watch(swap=swap) as live:
        mend = fail(scene, live)
        scene.move(2)
        if fail is failing_memory and swap == "in_place":
            # Going back takes memory, too: as soon as it is there again, so is a version.
            until(lambda: code in scene.codes())
            mend()
            scene.now += 700_000
            until(lambda: live.name == "m@2")
            return
        until(lambda: scene.codes() == [code])
        assert (live.name, live.ready, answer(live)) == ("m@1", True, 1)
        tries = len(scene.broker.released)
        time.sleep(0.1)
        assert len(scene.broker.released) == tries  # the time to try again hasn't come
        scene.now += 700_000
        if fail is failing_store:
            until(lambda: len(scene.broker.released) > tries)
        assert answer(live) == 1
        assert scene.codes() == [code]
        mend()
        scene.now += 700_000
        until(lambda: live.name == "m@2")
        assert answer(live) == 2
    assert scene.changes == [("m@1", "m@2")]


@pytest.mark.parametrize("swap", SWAPS)
def test_a_prepare_that_fails(scene: Scene, swap: str, counted: Memory) -> None:
    """What it had taken of the model goes with it."""

    def prepare(model: Model) -> int:
        views = [model.read_bytes(path) for path in model.files]
        if model.manifest.version == 2:
            raise ZeroDivisionError(len(views))
        return model.manifest.version

    with scene.watch(swap=swap, prepare=prepare) as live:
        scene.move(2)
        until(lambda: bool(scene.errors))
        assert isinstance(scene.errors[0], ZeroDivisionError)
        with live.prepared() as number:
            assert number == 1
        until(lambda: counted.now == 2 * SIZE)
        scene.move(3)
        until(lambda: live.name == "m@3")
    assert len(scene.errors) == 1
    assert counted.now == 0


@pytest.mark.parametrize("who", ["prepare", "on_change", "on_error"])
@pytest.mark.parametrize("swap", SWAPS)
def test_sys_exit_ends_no_watch(scene: Scene, swap: str, who: str) -> None:
    """In a thread it ends that thread, without a word."""
    left: list[object] = []

    def leave(*told: object) -> None:
        left.append(told)
        sys.exit(1)

    def prepare(model: Model) -> int:
        if model.manifest.version == 2 and who != "on_change":
            leave() if who == "prepare" else operator.truediv(1, 0)
        return model.manifest.version

    callback = {} if who == "prepare" else {who: leave}
    with scene.watch(swap=swap, prepare=prepare, **callback) as live:
        scene.move(2)
        until(lambda: bool(left))
        scene.move(3)
        until(lambda: live.name == "m@3")
    assert scene.codes() == (["prepare_failed"] if who == "prepare" else [])


def test_one_that_nobody_keeps_ends_with_its_session(scene: Scene) -> None:
    scene.watch()
    gc.collect()
    scene.move(2)
    until(lambda: len(scene.changes) == 1)
    scene.session.close()
    assert not [each for each in threading.enumerate() if each.name == "modelvault-watch"]
    assert len(scene.broker.released) == 2


def test_the_first_one_fails_as_a_load_does(scene: Scene) -> None:
    scene.spoil(1)
    with pytest.raises(IntegrityError):
        scene.watch()
    with pytest.raises(NotFound):
        scene.session.watch("m:nothing", purpose="inference")
    assert len(scene.broker.released) == 1
    assert not [each for each in threading.enumerate() if each.name == "modelvault-watch"]


@pytest.mark.parametrize("reference", ["m@1", "m@sha256:" + "0" * 64])
def test_what_never_moves_isnt_watched(scene: Scene, reference: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        scene.session.watch(reference, purpose="inference")
    assert caught.value.code == "never_moves"


@pytest.mark.parametrize("every_s", [0, -1, float("nan"), float("inf"), 1e12])
def test_intervals_that_are_none(scene: Scene, every_s: float) -> None:
    with pytest.raises(InvalidRequest) as caught:
        scene.watch(every_s=every_s)
    assert caught.value.code == "bad_interval"


def test_a_way_to_swap_that_is_none(scene: Scene) -> None:
    with pytest.raises(InvalidRequest) as caught:
        scene.watch(swap="besides")
    assert caught.value.code == "bad_swap"


def test_no_answer_is_no_change(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """Nor an error that anybody is told of; only the log says it, once."""
    tries = []

    def down(*_: object) -> None:
        tries.append(1)
        raise Unavailable("no_answer", "the broker doesn't answer")

    with scene.watch() as live:
        real = scene.broker.show
        scene.broker.show = down  # type: ignore[method-assign,assignment]
        scene.move(2)
        until(lambda: len(tries) > 3)
        assert (live.name, answer(live)) == ("m@1", 1)
        scene.broker.show = real  # type: ignore[method-assign]
        until(lambda: live.name == "m@2")
    assert scene.errors == []
    assert caplog.text.count("can't look") == 1


def test_an_older_record_is_refused(scene: Scene) -> None:
    """A store or broker that puts an old tag record back doesn't bring its version back."""
    with scene.watch() as live:
        old = scene.broker.tags["m:prod"]
        scene.move(2)
        until(lambda: live.name == "m@2")
        scene.broker.tags["m:prod"] = old
        until(lambda: scene.codes() == ["rollback"])
        assert answer(live) == 2


@pytest.mark.parametrize("swap", SWAPS)
def test_a_revoked_version_serves_no_more_until_the_tag_moves(
    scene: Scene, swap: str, counted: Memory
) -> None:
    with scene.watch(swap=swap, prepare=lambda model: model.read_bytes("a.dat")) as live:
        granted = scene.broker.lease

        def revoked(*_: object) -> None:
            raise AccessDenied("revoked", "revoked")

        scene.broker.lease = revoked  # type: ignore[method-assign,assignment]
        scene.broker.renew = revoked  # type: ignore[method-assign,assignment]
        scene.now += TTL_S * 900  # a renewal is due
        until(lambda: not live.ready, 20)
        with pytest.raises(AccessDenied) as caught:
            _enter(live)
        assert caught.value.code == "revoked"
        until(lambda: counted.now == 0)
        until(lambda: scene.codes()[:1] == ["revoked"])
        del scene.broker.renew
        scene.broker.lease = granted  # type: ignore[method-assign]
        scene.move(2)
        until(lambda: live.name == "m@2" and live.ready)
        with live.prepared() as view:
            assert view[0] == 2
        del view


def test_the_request_that_is_there_when_it_is_revoked(scene: Scene) -> None:
    with scene.watch() as live, live.model() as model:
        scene.broker.lease = scene.broker.renew = _revoked  # type: ignore[method-assign,assignment]
        scene.now += TTL_S * 900
        until(lambda: not live.ready, 20)
        with pytest.raises(AccessDenied):
            model.read_bytes("a.dat")


def _revoked(*_: object) -> None:
    raise AccessDenied("revoked", "revoked")


def test_views_that_outlive_their_request(scene: Scene, counted: Memory) -> None:
    """A third version isn't loaded while two are in memory, and that is said."""
    with scene.watch() as live:
        with live.model() as model:
            kept = model.read_bytes("a.dat")
        del model
        scene.move(2)
        until(lambda: live.name == "m@2")
        assert kept[0] == 1
        scene.move(3)
        time.sleep(0.05)
        assert scene.errors == []  # a moment is granted

        def told() -> bool:
            scene.now += 10_000  # again: the moment may begin only now
            return scene.codes() == ["views_alive"]

        until(told)
        assert "m@1" in scene.errors[0].message  # type: ignore[attr-defined]
        assert answer(live) == 2
        assert counted.most <= 4 * SIZE
        del kept
        until(lambda: live.name == "m@3")
        until(lambda: counted.now == 2 * SIZE)


def test_in_place_with_views_that_outlive_their_request(scene: Scene) -> None:
    with scene.watch(swap="in_place", prepare=lambda model: model.manifest.version) as live:
        with live.model() as model:
            kept = model.read_bytes("a.dat")
        del model
        scene.move(2)
        until(lambda: scene.codes() == ["views_alive"])
        with live.prepared() as number:
            assert number == 1
        del kept
        scene.now += 700_000
        until(lambda: live.name == "m@2")


def test_closing(scene: Scene) -> None:
    live = scene.watch()
    with live.model(), pytest.raises(Conflict) as caught:
        live.close()
    assert caught.value.code == "in_use"
    assert answer(live) == 1  # all goes on
    with live.model() as model:
        kept = model.read_bytes("a.dat")
    del model
    with pytest.raises(Conflict) as caught:
        live.close()
    assert caught.value.code == "views_alive"
    with pytest.raises(Conflict) as caught:
        _enter(live)
    assert caught.value.code == "closed"
    del kept
    live.close()
    live.close()
    assert len(scene.broker.released) == 1


def test_a_session_closes_what_it_watches(scene: Scene, counted: Memory) -> None:
    live = scene.watch()
    scene.session.close()
    assert not live.ready
    assert counted.now == 0


def test_an_error_on_its_way_out_closes_all_the_same(scene: Scene) -> None:
    def serve() -> None:
        with live, live.model() as model:
            view = model.read_bytes("a.dat")
            raise ZeroDivisionError(view[0])

    live = scene.watch()
    with pytest.raises(ZeroDivisionError):
        serve()
    assert not live.ready
    assert len(scene.broker.released) == 1


@pytest.mark.parametrize("swap", SWAPS)
def test_closed_while_a_version_is_being_loaded(scene: Scene, swap: str) -> None:
    """The load is given up."""
    loading = threading.Event()
    go_on = threading.Event()

    def prepare(model: Model) -> int:
        if model.manifest.version == 2:
            loading.set()
            go_on.wait(10)
            model.read_bytes("a.dat")
        return model.manifest.version

    live = scene.watch(swap=swap, prepare=prepare)
    scene.move(2)
    assert loading.wait(10)
    closing = threading.Thread(target=live.close)
    closing.start()
    until(live._follower._closing.is_set)
    go_on.set()
    closing.join(10)
    assert not closing.is_alive()
    assert scene.changes == []
    assert len(scene.broker.released) == 2


def test_callbacks_that_fail_stop_nothing(scene: Scene) -> None:
    def bad(*_: object) -> None:
        raise ZeroDivisionError

    with scene.watch(on_change=bad, on_error=bad) as live:
        mend = scene.spoil(2)
        scene.move(2)
        time.sleep(0.05)
        mend()
        scene.move(3)
        until(lambda: live.name == "m@3")


def test_a_look_on_demand(scene: Scene) -> None:
    with scene.watch(every_s=3600.0) as live:
        scene.move(2)
        live.look()
        until(lambda: live.name == "m@2")


def test_tasks_of_an_event_loop_have_versions_of_their_own(scene: Scene) -> None:
    """They share a thread; one that holds the old version doesn't pass it to the others."""

    async def first(begun: asyncio.Event, over: asyncio.Event) -> int:
        with live.model() as model:
            begun.set()
            await over.wait()
            with live.model() as within:
                assert within is model
                return within.manifest.version

    async def main() -> tuple[int, int]:
        begun, over = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(first(begun, over))
        await begun.wait()
        scene.move(2)
        while live.name != "m@2":
            await asyncio.sleep(0.01)
        second = await asyncio.to_thread(answer, live)
        here = answer(live)
        over.set()
        assert second == here
        return await task, here

    with scene.watch() as live:
        assert asyncio.run(main()) == (1, 2)
        until(lambda: len(scene.broker.released) == 1)


def test_left_in_another_context(scene: Scene) -> None:
    """As frameworks do whose dependencies are generators."""
    import contextvars

    with scene.watch() as live:
        request = live.model()
        contextvars.copy_context().run(request.__enter__)
        contextvars.copy_context().run(lambda: request.__exit__(None, None, None))
        scene.move(2)
        until(lambda: live.name == "m@2")
        until(lambda: len(scene.broker.released) == 1)
        assert answer(live) == 2


def test_pickles_that_nobody_may_read_stop_no_swap(scene: Scene, tmp_path: Path) -> None:
    import pickle

    scene.broker.obligations = Obligations()
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "a.dat").write_bytes(content(4))
    (folder / "b.dat").write_bytes(content(4))
    (folder / "c.pt").write_bytes(pickle.dumps(print))
    scene.session.push(folder, "m:other")
    with scene.watch() as live:
        scene.session.tag("m:other", "prod")
        until(lambda: live.name == "m@4")
        assert answer(live) == 4
    assert scene.errors == []


def test_no_thread(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == "modelvault-watch":
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(Unavailable) as caught:
        scene.watch()
    assert caught.value.code == "no_thread"
    assert len(scene.broker.released) == 1


def test_when_to_try_again() -> None:
    state = Attempts()
    assert attempts.due(state, 7, 0)
    pauses = []
    for _ in range(12):
        state = attempts.failed(state, 7, 1000, 15_000)
        pauses.append(state.again_at - 1000)
    assert pauses == [15_000, 30_000, 60_000, 120_000, 240_000, 480_000] + 6 * [600_000]
    assert not attempts.due(state, 7, 600_999)
    assert attempts.due(state, 7, 601_000)
    assert attempts.due(state, 8, 0)
    assert attempts.failed(state, 8, 0, 15_000) == Attempts(8, 1, 15_000)
    with suppress(IndexError):
        assert attempts.failed(state, 7, 0, 3_600_000).again_at == 3_600_000


def test_nothing_to_go_back_to(scene: Scene, counted: Memory) -> None:
    """In place: neither the new version nor the old one can be prepared; it is tried again."""
    broken = False

    def prepare(model: Model) -> memoryview:
        if broken:
            raise ZeroDivisionError
        return model.read_bytes("a.dat")

    with scene.watch(swap="in_place", prepare=prepare) as live:
        broken = True
        scene.move(2)
        until(lambda: live.name == "")
        assert not live.ready
        with pytest.raises(Unavailable) as caught:
            _enter(live)
        assert caught.value.code == "nothing_loaded"
        until(lambda: counted.now == 0)
        until(lambda: live._follower._attempts.failures == 1)
        broken = False
        scene.now += 700_000
        until(lambda: live.name == "m@2")
        assert answer(live) == 2
    assert [type(error) for error in scene.errors] == [ZeroDivisionError]
    assert scene.changes == [("", "m@2")]
    assert counted.most == 2 * SIZE


def test_moved_back_while_it_was_loaded(scene: Scene) -> None:
    """The lease is for what the tag means by then, which serves already."""
    with scene.watch() as live:
        real = scene.broker.lease
        asked: list[int] = []

        def lease(*told: Any) -> Any:
            asked.append(1)
            scene.broker.lease = real  # type: ignore[method-assign]
            scene.move(1)
            return real(*told)

        scene.broker.lease = lease  # type: ignore[method-assign]
        scene.move(2)
        until(lambda: bool(asked) and len(scene.broker.released) == 1)
        assert (live.name, answer(live)) == ("m@1", 1)
    assert scene.changes == []
    assert scene.errors == []


def test_an_error_while_requests_are_waited_for(scene: Scene) -> None:
    """In place: the swap is called off, and the request that runs ends as it began."""
    live = scene.watch(swap="in_place")
    request = live.model()
    model = request.__enter__()
    scene.move(2)
    until(lambda: not live.ready)
    with pytest.raises(ZeroDivisionError), live:
        raise ZeroDivisionError
    assert len(scene.broker.released) == 2
    with pytest.raises(Conflict):
        model.read_bytes("a.dat")
    request.__exit__(None, None, None)
    assert scene.changes == []


def test_a_surprise_ends_no_watch(scene: Scene) -> None:
    def strange(*_: object) -> None:
        raise OSError("what no broker raises")

    with scene.watch() as live:
        real = scene.broker.show
        scene.broker.show = strange  # type: ignore[method-assign,assignment]
        until(lambda: bool(scene.errors))
        scene.broker.show = real  # type: ignore[method-assign]
        scene.move(2)
        until(lambda: live.name == "m@2")
    assert [type(error) for error in scene.errors] == [OSError]
