from __future__ import annotations

import gc
import re
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from modelvault.errors import AccessDenied, Conflict, IntegrityError, Unavailable
from modelvault.loader import memory
from modelvault.loader.model import Model
from support.loading import BROKEN, Sealed, Version, no_stats

FILES = {
    "a.safetensors": save({"a": np.arange(300_000, dtype="f4")}),
    "b.safetensors": save({"b": np.arange(300_000, dtype="f4")}),
}


class Wipes(list):
    """For every region that went: whether it held anything, before and after its wipe."""


@pytest.fixture
def wipes(monkeypatch: pytest.MonkeyPatch) -> Wipes:
    seen = Wipes()
    original = memory._Memory.wipe

    def wipe(self: memory._Memory) -> None:
        before = any(np.frombuffer(self, "u1"))
        original(self)
        seen.append((before, any(np.frombuffer(self, "u1"))))

    monkeypatch.setattr(memory._Memory, "wipe", wipe)
    return seen


def place(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def mapped(address: int) -> bool:
    ranges = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) ", Path("/proc/self/maps").read_text(), re.M)
    return any(int(first, 16) <= address < int(last, 16) for first, last in ranges)


def test_close_wipes_unmaps_and_ends_the_lease(wipes: Wipes) -> None:
    version = Version(FILES)
    model = version.model()
    addresses = [place(array) for array in model.tensors().values()]
    assert all(map(mapped, addresses))
    model.close()
    assert wipes == [(True, False)] * 2
    assert not any(map(mapped, addresses))
    assert all(reader.wiped for reader in version.readers.values())
    assert version.closed == 1
    model.close()
    assert version.closed == 1


@pytest.mark.parametrize("use", ["tensors", "tensor", "read_bytes", "open", "path", "state_dict",
                                 "tensor_infos"])  # fmt: skip
def test_nothing_after_close(use: str) -> None:
    model = Version(FILES).model()
    file = model.open("a.safetensors")
    file.read(8)
    model.close()
    arguments = {"tensor": ("a",), "read_bytes": ("a.safetensors",), "open": ("a.safetensors",)}
    with pytest.raises(Conflict) as caught:
        getattr(model, use)(*arguments.get(use, ()))
    assert caught.value.code == "closed"
    file.seek(0)
    with pytest.raises(Conflict, match="closed"):
        file.read(100_000)


def test_close_with_views_alive_names_the_file_and_a_later_close_works(wipes: Wipes) -> None:
    version = Version(FILES)
    model = version.model()
    tensors = model.tensors()
    view = tensors["b"][100:]
    del tensors
    with pytest.raises(Conflict) as caught:
        model.close()
    assert caught.value.code == "views_alive"
    assert "b.safetensors" in caught.value.message
    assert "a.safetensors" not in caught.value.message
    assert caught.value.details["files"] == ["b.safetensors"]
    assert "del" in caught.value.hint
    assert view[0] == 100  # not zeroed under its reader
    assert version.closed == 0
    assert model.tensor("a")[5] == 5  # still open; what had gone is read again
    del view
    model.close()
    assert version.closed == 1
    assert wipes == [(True, False)] * 3


def test_many_files_in_use_are_counted() -> None:
    files = {f"{n}.safetensors": save({str(n): np.zeros(3)}) for n in range(6)}
    model = Version(files).model()
    tensors = model.tensors()
    with pytest.raises(Conflict, match=r"0\.s.*1\.s.*2\.s.*and of 3 more files"):
        model.close()
    del tensors
    model.close()


def test_a_with_that_ends_with_views_alive_raises() -> None:
    version = Version(FILES)
    with pytest.raises(Conflict, match="views of"), version.model() as model:
        tensors = model.tensors()
    assert tensors["a"][1] == 1
    del tensors
    model.close()
    assert version.closed == 1


def fail(model: Model) -> None:
    tensors = model.tensors()
    assert tensors
    raise KeyError("the job's own mistake")


def test_an_exception_wipes_what_it_does_not_hold(wipes: Wipes) -> None:
    version = Version(FILES)
    with pytest.raises(KeyError) as caught, version.model() as model:  # noqa: PT012
        model.read_bytes("a.safetensors")
        held = model.read_bytes("b.safetensors")
        raise KeyError("mistake")
    assert wipes == [(True, False)]
    assert version.closed == 1
    assert "views of b.safetensors live on" in caught.value.__notes__[0]
    assert len(held) == len(FILES["b.safetensors"])
    assert held[100_000:100_010] == FILES["b.safetensors"][100_000:100_010]
    del held
    assert wipes == [(True, False)] * 2
    with pytest.raises(Conflict, match="closed"):
        model.tensors()


def test_an_exception_whose_traceback_holds_views(wipes: Wipes) -> None:
    version = Version(FILES)
    with pytest.raises(KeyError) as caught, version.model() as model:
        fail(model)
    assert len(wipes) == 0
    assert "a.safetensors" in caught.value.__notes__[0]
    del caught
    gc.collect()
    assert wipes == [(True, False)] * 2
    assert version.closed == 1


def test_an_exception_without_views_wipes_all_at_once(wipes: Wipes) -> None:
    version = Version(FILES)
    with pytest.raises(KeyError) as caught, version.model() as model:  # noqa: PT012
        model.read_bytes("a.safetensors")
        model.tensor("b")
        raise KeyError("mistake")
    assert wipes == [(True, False)] * 2
    assert not hasattr(caught.value, "__notes__")
    assert version.closed == 1


def test_an_exception_after_the_close_is_left_alone() -> None:
    version = Version(FILES)
    with pytest.raises(KeyError), version.model() as model:  # noqa: PT012
        model.close()
        raise KeyError("mistake")
    assert version.closed == 1


def test_an_error_of_the_lease_does_not_hide_the_exception() -> None:
    version = Version(FILES)

    def unreachable() -> None:
        raise Unavailable("broker_unavailable", "no answer")

    model = Model(
        version.manifest, list(FILES), lambda entry: version.readers[entry.path],
        version.model().obligations, version.lease, unreachable,
        stats=no_stats,
    )  # fmt: skip
    with pytest.raises(KeyError) as caught, model:
        raise KeyError("mistake")
    assert "no answer" in caught.value.__notes__[0]
    assert model.closed


@pytest.mark.parametrize("error", [BROKEN, KeyboardInterrupt(), MemoryError()])
def test_a_read_that_fails_leaves_nothing_and_keeps_nothing_alive(
    error: BaseException, wipes: Wipes
) -> None:
    version = Version(FILES)
    model = version.model()
    model.tensor_infos()
    version.readers["b.safetensors"].error = error
    with pytest.raises(type(error)) as caught:
        model.tensors()
    resident = model._residents["b.safetensors"]
    assert resident._region is not None
    assert not any(resident._region.view(10_000, resident.size))
    version.readers["b.safetensors"].error = None
    assert model.tensor("b")[7] == 7  # and trying again works
    model.close()  # though the error with its traceback is still here
    assert caught.value is not None
    assert [after for _, after in wipes] == [False, False]


def test_a_failure_in_the_real_reader_keeps_nothing_alive(wipes: Wipes) -> None:
    version = Sealed(FILES)
    version.flip("b.safetensors", 700_000)
    model = version.model()
    with pytest.raises(IntegrityError) as caught:
        model.tensors()
    with pytest.raises(IntegrityError):
        model.path()
    model.close()
    assert "b.safetensors" in caught.value.message
    assert wipes == [(True, False)] * 2


def test_drop_wipes_what_has_no_views_and_the_rest_when_they_die(wipes: Wipes) -> None:
    version = Version(FILES)
    model = version.model()
    folder = model.path()
    held = model.tensors()["b"][1:2]
    file = model.open("a.safetensors")
    assert model.drop() == ("b.safetensors",)
    assert wipes == [(True, False)]
    assert not folder.exists()
    assert all(reader.wiped for reader in version.readers.values())
    assert held[0] == 1
    for use in (model.tensors, model.path, lambda: file.read(1)):
        with pytest.raises(AccessDenied) as caught:
            use()
        assert caught.value.code == "revoked"
    assert version.closed == 0  # the keeper dropped it, so the keeper knows
    with pytest.raises(Conflict, match=r"b\.safetensors"):
        model.close()
    assert model.drop() == ("b.safetensors",)
    with pytest.raises(AccessDenied):
        model.tensors()
    del held
    assert wipes == [(True, False)] * 2
    assert model.drop() == ()
    model.close()
    assert version.closed == 1
    assert model.drop() == ()


def test_drop_during_a_decryption_waits_a_stride_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelvault.loader.resident.STRIDE", 50_000)
    version = Version(FILES)
    model = version.model()
    started, go = threading.Event(), threading.Event()
    reader = version.readers["a.safetensors"]

    def before() -> None:
        started.set()
        assert go.wait(10)

    reader.before = before
    errors = []

    def read() -> None:
        try:
            model.read_bytes("a.safetensors")
        except AccessDenied as error:
            errors.append(error.code)

    reading = threading.Thread(target=read)
    reading.start()
    assert started.wait(10)
    dropping = threading.Thread(target=model.drop)
    dropping.start()
    while not model._gate._dropped:
        pass
    go.set()
    dropping.join(10)
    reading.join(10)
    assert errors == ["revoked"]
    assert len(reader.reads) == 1
    model.close()


def test_a_load_that_is_cancelled_by_a_close_ends_at_its_next_stride(
    monkeypatch: pytest.MonkeyPatch, wipes: Wipes
) -> None:
    monkeypatch.setattr("modelvault.loader.resident.STRIDE", 50_000)
    version = Version(FILES)
    model = version.model()
    started, go = threading.Event(), threading.Event()
    reader = version.readers["a.safetensors"]
    model.tensor_infos()
    looked = len(reader.reads)

    def before() -> None:
        started.set()
        assert go.wait(10)

    reader.before = before
    errors = []

    def load() -> None:
        try:
            model.tensors()
        except Conflict as error:
            errors.append(error.code)

    loading = threading.Thread(target=load)
    loading.start()
    assert started.wait(10)
    closing = threading.Thread(target=model.close)
    closing.start()
    while not model._gate._shut:
        pass
    go.set()
    closing.join(10)
    loading.join(10)
    assert errors == ["closed"]
    assert len(reader.reads) <= looked + 1
    assert model.closed
    assert [after for _, after in wipes] == [False] * len(wipes)
    assert len(wipes) >= 1


def test_two_models_of_one_version_have_nothing_in_common() -> None:
    """Two loads at once: each has its own memory, and closing one leaves the other."""
    version = Version(FILES)
    models = [version.model(), version.model()]
    found: dict[int, dict[str, np.ndarray]] = {}

    def load(at: int) -> None:
        found[at] = models[at].tensors()

    threads = [threading.Thread(target=load, args=(at,)) for at in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for name in ("a", "b"):
        np.testing.assert_array_equal(found[0][name], found[1][name])
        assert not np.shares_memory(found[0][name], found[1][name])
    del found[0]
    version.readers["a.safetensors"].wiped = False
    models[0].close()
    assert found[1]["a"][7] == 7
    del found[1]
    models[1].close()
    assert version.closed == 2


def test_views_keep_a_forgotten_model_and_its_lease() -> None:
    version = Version(FILES)
    model = version.model()
    watch = weakref.ref(model)
    view = model.tensor("a")[3:]
    address = place(view)
    del model
    gc.collect()
    assert watch() is not None
    assert view[0] == 3
    del view
    gc.collect()
    assert watch() is None
    assert not mapped(address)


def test_a_region_released_between_fill_and_view_is_filled_again() -> None:
    version = Version(FILES)
    model = version.model()
    resident = model._residents["a.safetensors"]
    fill = resident._fill
    released = []

    def fill_then_lose(begin: int, end: int) -> None:
        fill(begin, end)
        if not released:
            released.append(resident.release())

    resident._fill = fill_then_lose  # type: ignore[method-assign]
    assert model.read_bytes("a.safetensors") == FILES["a.safetensors"]
    assert released == [True]
    model.close()


def test_released_memory_keeps_the_lease_and_comes_back() -> None:
    """For whoever needs the room for a while."""
    version = Version({"a.dat": b"1" * 5000, "b.dat": b"2" * 3000})
    with version.model() as model:
        folder = model.path("b.dat")
        view = model.read_bytes("a.dat")
        with pytest.raises(Conflict) as caught:
            model.release()
        assert caught.value.details["files"] == ["a.dat"]
        assert not folder.exists()
        del view
        model.release()
        read = version.bytes_read
        assert model.read_bytes("a.dat") == b"1" * 5000
        assert version.bytes_read == read + 5000
        assert (model.path("b.dat") / "b.dat").read_bytes() == b"2" * 3000
        assert version.closed == 0
    assert version.closed == 1
