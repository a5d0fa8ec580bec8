"""Tensors through a window: what lives at once, what is read when, and who may stop it."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from modelvault.errors import AccessDenied, Conflict, IntegrityError, InvalidRequest, NotFound
from modelvault.loader.ahead import Ahead
from modelvault.loader.engines import staging
from modelvault.loader.engines.staging import StagedTensors, empty_on
from modelvault.loader.model import Model
from modelvault.loader.spans import spans
from modelvault.weights.safetensors import TensorInfo
from support.engines import need
from support.loading import BROKEN, Sealed, Version

torch = need("torch")

MIB = 1 << 20
MODEL = "m.safetensors"
ARRAYS = {
    f"t{number:02}": np.full(MIB // 8, number, "f4")  # 512 KiB each
    for number in range(16)
} | {"small": np.arange(10, dtype="u1"), "none": np.zeros((0, 3), "f2"), "one": np.array(7, "i8")}
FILES = {
    "a.safetensors": save({name: ARRAYS[name] for name in sorted(ARRAYS)[:9]}),
    "b.safetensors": save({name: ARRAYS[name] for name in sorted(ARRAYS)[9:]}),
}


def fed(model: Model, window: int = 2 * MIB, **more: Any) -> StagedTensors:
    """What a device other than the CPU would be fed by, feeding the CPU."""
    cpu = torch.device("cpu")
    located = model._shards.locate(())
    stream = StagedTensors(
        located.values(), model._cleared, model._lent, empty_on(cpu), cpu, model._fits, window
    )
    model._streams.add(stream)
    return stream


def windowed(model: Model, window: int = 4 * MIB) -> Any:
    return model.iter_tensors(window=window)


def drain(tensors: Any) -> None:
    """Take all and keep none, not even in a loop's variable."""
    deque(tensors, maxlen=0)


both = pytest.mark.parametrize("stream", [windowed, fed])


@both
@pytest.mark.parametrize("segment_length", [1024, 100_000, 1 << 20])
def test_every_tensor_comes_once_as_it_is(stream: Any, segment_length: int) -> None:
    version = Version(FILES, segment_length=segment_length)
    with version.model() as model:
        seen = set()
        for name, tensor in stream(model):
            assert name not in seen
            seen.add(name)
            assert tensor.shape == ARRAYS[name].shape
            assert torch.equal(tensor, torch.from_numpy(ARRAYS[name]))
            tensor.add_(1)  # nobody else's
        del tensor
        assert seen == set(ARRAYS)


@both
def test_no_segment_is_read_twice_and_nothing_stays(stream: Any) -> None:
    """But for the beginning of each file, which was looked at before: it stays."""
    version = Version(FILES)
    with version.model() as model:
        drain(stream(model))
        assert not any(model._lent.alive())
        first = version.bytes_read
        assert first <= sum(map(len, FILES.values())) + 3 * 8192
        drain(stream(model))
        assert version.bytes_read - first <= sum(map(len, FILES.values()))


def test_what_lives_at_once_is_within_the_window() -> None:
    window = 4 * MIB
    with Version(FILES).model() as model:
        stream = windowed(model, window)
        most = 0
        for _, tensor in stream:
            living = [region.size for _, region in model._lent._living()]
            most = max(most, sum(living))
            assert tensor is not None
        del tensor
        assert MIB < most <= window


def test_tensors_that_are_kept_fill_the_window_and_dropping_them_goes_on() -> None:
    with Version(FILES).model() as model:
        stream = windowed(model)
        kept: list[Any] = []
        with pytest.raises(Conflict) as caught:
            kept.extend(stream)
        assert caught.value.code == "window_full"
        assert "state_dict()" in caught.value.hint
        assert 4 < len(kept) < len(ARRAYS)
        names = {name for name, _ in kept}
        kept.clear()
        del caught
        names |= {name for name, _ in stream}
        assert names == set(ARRAYS)


def test_what_is_cloned_may_stay() -> None:
    with Version(FILES).model() as model:
        kept = {name: tensor.clone() for name, tensor in windowed(model, MIB)}
        assert all(torch.equal(kept[name], torch.from_numpy(ARRAYS[name])) for name in ARRAYS)


def test_tensors_in_cycles_are_held_by_nobody() -> None:
    with Version(FILES).model() as model:
        gc.disable()
        try:
            for _, tensor in windowed(model, 2 * MIB):
                cycle: list[Any] = [tensor]
                cycle.append(cycle)
        finally:
            gc.enable()
        del tensor, cycle
        gc.collect()


def test_a_tensor_larger_than_the_window_comes_alone() -> None:
    large = {"a": np.zeros(3 * MIB, "u1"), "b": np.ones(3 * MIB, "u1"), "c": np.ones(9, "u1")}
    with Version({MODEL: save(large)}).model() as model:
        assert [(name, len(t), int(t[-1])) for name, t in windowed(model, MIB)] == [
            ("a", 3 * MIB, 0), ("b", 3 * MIB, 1), ("c", 9, 1),
        ]  # fmt: skip


@both
def test_the_first_tensor_is_there_before_a_tenth_is_read(stream: Any) -> None:
    many = {f"t{n:03}": np.full(64 << 10, n, "u1") for n in range(200)}
    sealed = Sealed({MODEL: save(many)})
    with sealed.model() as model:
        tensors = stream(model, MIB)
        name, first = next(tensors)
        read = sum(size for _, _, size in sealed.store.reads)
        assert (name, int(first[0])) == ("t000", 0)
        del first
        tensors.close()
        # What is read ahead at that moment, too.
        assert read <= len(FILES["a.safetensors"]) * 2
        assert read < sum(map(len, sealed.store.objects.values())) / 4


@both
def test_a_close_from_another_thread_ends_it(stream: Any) -> None:
    version = Version(FILES)
    model = version.model()
    tensors = stream(model)
    next(tensors)
    closing = threading.Thread(target=model.close)
    closing.start()
    closing.join(20)
    assert model.closed
    assert version.closed == 1
    with pytest.raises(Conflict, match="closed"):
        next(tensors)
    tensors.close()


@both
def test_a_close_amid_a_read_ends_it(stream: Any) -> None:
    version = Version(FILES)
    model = version.model()
    tensors = stream(model)
    reader = version.readers["b.safetensors"]
    begun, go = threading.Event(), threading.Event()

    def before() -> None:
        begun.set()
        assert go.wait(20)

    reader.before = before
    errors: list[str] = []

    def consume() -> None:
        try:
            drain(tensors)
        except Conflict as ended:
            errors.append(ended.code)

    consumer = threading.Thread(target=consume)
    consumer.start()
    assert begun.wait(20)
    closing = threading.Thread(target=model.close)
    closing.start()
    while not model._gate._shut:
        pass
    go.set()
    closing.join(20)
    consumer.join(20)
    assert errors == ["closed"]
    assert model.closed
    assert not any(model._lent.alive())


@both
def test_half_of_a_model_never_passes_for_the_whole(stream: Any) -> None:
    """A stream that an error, a close or a close in vain has ended doesn't just stop."""
    version = Version(FILES)
    model = version.model()
    view = model.read_bytes("a.safetensors")
    tensors, other, through = stream(model), stream(model), stream(model)
    next(tensors)
    with other:
        next(other)
    drain(through)
    with pytest.raises(Conflict, match="views of"):
        model.close()
    for ended in (tensors, other):
        with pytest.raises(Conflict, match="before it was through"):
            next(ended)
    assert next(through, "nothing") == "nothing"
    version.readers["b.safetensors"].error = BROKEN
    broken = stream(model)
    for error in (IntegrityError, Conflict):
        with pytest.raises(error):
            drain(broken)
    del view
    model.close()


def test_a_tensor_that_is_in_use_keeps_the_model_open() -> None:
    model = Version(FILES).model()
    tensors = windowed(model)
    _, tensor = next(tensors)
    with pytest.raises(Conflict) as caught:
        model.close()
    assert caught.value.details["files"] == ["a.safetensors"]
    assert float(tensor.flatten()[0]) in {0.0, 7.0}
    del tensor
    model.close()


@both
def test_a_revocation_ends_it(stream: Any) -> None:
    version = Version(FILES)
    model = version.model()
    tensors = stream(model)
    next(tensors)
    version.lease.revoked = True
    with pytest.raises(AccessDenied):
        next(tensors)
    assert model.drop() == ()
    assert not any(model._lent.alive())
    model.close()


@both
def test_an_error_leaves_nothing_and_ends_it(stream: Any) -> None:
    version = Version(FILES)
    model = version.model()
    model.tensor_infos()
    version.readers["b.safetensors"].error = BROKEN
    tensors = stream(model)
    with pytest.raises(IntegrityError, match=r"b\.safetensors") as caught:
        drain(tensors)
    model.close()  # though the error with its traceback is still here
    assert caught.value.code == "bad_tag"
    with pytest.raises(Conflict, match="closed"):
        next(tensors)


@both
def test_threads_share_one_stream(stream: Any) -> None:
    with Version(FILES).model() as model:
        tensors = stream(model, 8 * MIB)

        def take(_: int) -> list[tuple[str, bool]]:
            return [
                (name, torch.equal(tensor, torch.from_numpy(ARRAYS[name])))
                for name, tensor in tensors
            ]

        with ThreadPoolExecutor(4) as pool:
            taken = [pair for some in pool.map(take, range(4)) for pair in some]
        assert sorted(taken) == sorted((name, True) for name in ARRAYS)


@both
def test_without_a_further_thread_it_goes_on_by_itself(
    stream: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Version(FILES).model() as model:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert {name for name, _ in stream(model)} == set(ARRAYS)


def test_ctrl_c_while_waiting_waits_for_the_thread() -> None:
    done = threading.Event()

    class Interrupted(Ahead[int]):
        def result(self) -> int:
            raise KeyboardInterrupt

    def work() -> int:
        done.wait(10)
        return 3

    ahead = Interrupted(work)
    with pytest.raises(KeyboardInterrupt):
        ahead.result()
    done.set()
    ahead.wait()
    assert not ahead._thread.is_alive()
    assert ahead._value == []


def test_named_files_and_what_is_not_there() -> None:
    with Version(FILES).model() as model:
        names = {name for name, _ in model.iter_tensors("b.safetensors")}
        assert names == set(sorted(ARRAYS)[9:])
        with pytest.raises(NotFound):
            model.iter_tensors("c.safetensors")
        with pytest.raises(InvalidRequest) as caught:
            model.iter_tensors(window=1000)
        assert caught.value.code == "bad_window"
        for device in ("meta", "nonsense", "cuda:99", 3.5):
            with pytest.raises(InvalidRequest) as caught:
                model.iter_tensors(device=device)
            assert caught.value.code == "no_device"
        with model.iter_tensors(device="cpu") as tensors:
            assert next(tensors)[0] in ARRAYS


def info(name: str, begin: int, end: int) -> TensorInfo:
    return TensorInfo(name, "U8", (end - begin,), begin, end)


def test_spans_are_of_neighbours_and_no_longer_than_the_limit() -> None:
    a, b, c, d = info("a", 8, 20), info("b", 20, 50), info("c", 50, 500), info("d", 500, 510)
    far = info("f", 5 * MIB, 5 * MIB + 9)
    found = spans([("y", b), ("y", a), ("x", far), ("y", d), ("x", a), ("y", c)], 45)
    assert [(span.path, span.begin, span.end, len(span.tensors)) for span in found] == [
        ("y", 8, 50, 2), ("y", 50, 500, 1), ("y", 500, 510, 1),
        ("x", 8, 20, 1), ("x", 5 * MIB, 5 * MIB + 9, 1),
    ]  # fmt: skip
    assert [span.size for span in spans([("y", b), ("y", c), ("y", d)])] == [490]


def test_the_first_spans_are_short() -> None:
    infos = [("x", info(f"t{at}", at * 10, at * 10 + 10)) for at in range(40)]
    found = spans(infos, 100, 20)
    assert [span.size for span in found] == [20, 40, 80, 100, 100, 60]
    assert [span.size for span in spans(infos, 100)] == [100] * 4


class Cuda:
    """As much of torch.cuda as the buffers touch; `told` is what was asked of it, in order."""

    class cudaError:  # noqa: N801 - torch's own name
        success = 0

    def __init__(self, answer: int) -> None:
        self.told: list[Any] = []
        self._answer = answer

    def cudart(self) -> Cuda:
        return self

    def cudaHostRegister(self, place: int, size: int, flags: int) -> int:  # noqa: N802
        self.told.append(("register", place, size))
        return self._answer

    def cudaHostUnregister(self, place: int) -> None:  # noqa: N802
        self.told.append(("unregister", place, memory_at(place)))

    def current_stream(self, device: Any) -> str:
        return f"stream of {device.type}"

    def Event(self) -> Any:  # noqa: N802
        cuda, event = self, SimpleNamespace()
        event.record = lambda stream: cuda.told.append(("record", id(event), stream))
        event.synchronize = lambda: cuda.told.append(("wait", id(event)))
        return event


def memory_at(place: int) -> bool:
    return any(ctypes.string_at(place, 1000))


@pytest.mark.parametrize("answer", [0, 2])
def test_pinned_buffers_are_not_refilled_before_their_copies_arrived(
    monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    """With a stand-in for CUDA: where copies go on by themselves, and where pinning is refused."""
    cuda = Cuda(answer)
    monkeypatch.setattr(torch, "cuda", cuda)
    fills: list[int] = []
    real = staging._Buffer.fill

    def fill(self: Any, *part: Any) -> None:
        fills.append(len(cuda.told))
        real(self, *part)

    monkeypatch.setattr(staging._Buffer, "fill", fill)
    with Version(FILES).model() as model:
        located = model._shards.locate(())
        device, place = SimpleNamespace(type="cuda"), empty_on(torch.device("cpu"))
        with StagedTensors(
            located.values(), model._cleared, model._lent, place, device, model._fits, 2 * MIB
        ) as stream:
            assert {
                name for name, found in stream if torch.equal(found, torch.from_numpy(ARRAYS[name]))
            } == set(ARRAYS)
    kinds = [what[0] for what in cuda.told]
    assert kinds[:2] == ["register"] * 2
    if answer:
        assert set(kinds) == {"register"}
        return
    records = [what for what in cuda.told if what[0] == "record"]
    assert len(records) == len(fills) > 4
    assert {what[2] for what in records} == {"stream of cuda"}
    # Each event is waited for once, before the buffer is filled or given up.
    assert sorted(what[1] for what in records) == sorted(w[1] for w in cuda.told if w[0] == "wait")
    for number, (_, event, _) in enumerate(records[:-2]):
        assert cuda.told.index(("wait", event)) < fills[number + 2]
    unregistered = [what for what in cuda.told if what[0] == "unregister"]
    assert [what[2] for what in unregistered] == [True, True]  # known to CUDA until it is wiped


def test_the_first_tensor_waits_for_few_others() -> None:
    many = {f"t{n:02}": np.full(512 << 10, n, "u1") for n in range(48)}
    sealed = Sealed({MODEL: save(many)}, segment_length=1 << 20)
    with sealed.model() as model, windowed(model, 1 << 30) as tensors:
        _, first = next(tensors)
        del first
        # 4 MiB; and 8 that are decrypted ahead meanwhile, or not yet.
        assert sum(size for _, _, size in sealed.store.reads) < 16 * MIB
