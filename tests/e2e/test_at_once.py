"""Loads of one model at once, and one that another thread ends: a real vault, real decryption."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from modelvault import connect, wiring
from modelvault.client.session import Session
from modelvault.errors import Conflict
from support.homes import isolated, safetensors_bytes

WEIGHTS = {
    f"w{number}": np.random.default_rng(number).integers(0, 256, (4096, 1024), "u1")
    for number in range(8)
}


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("at-once")
    with pytest.MonkeyPatch.context() as patch:
        isolated(folder, patch)
        wiring.init(segment_length=1 << 16)
        (folder / "m.safetensors").write_bytes(safetensors_bytes(WEIGHTS))
        with connect() as session:
            session.create("m")
            session.push(folder / "m.safetensors", "m:prod")
            yield session


def test_four_loads_of_one_session_have_leases_and_memory_of_their_own(vault: Session) -> None:
    together = threading.Barrier(4, timeout=60)

    def load(_number: int) -> int:
        together.wait()
        with vault.load("m:prod", purpose="inference") as model:
            tensors = model.tensors()
            for name, wanted in WEIGHTS.items():
                np.testing.assert_array_equal(tensors[name], wanted)
            together.wait()  # all hold theirs
            assert len(vault.leases()) == 4
            place = int(tensors["w0"].__array_interface__["data"][0])
            together.wait()
            del tensors
        return place

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(load, range(4)))) == 4
    assert vault.leases() == ()


def test_threads_of_one_model_decrypt_it_once(vault: Session) -> None:
    with vault.load("m:prod", purpose="inference") as model:
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda name: int(model.tensor(name).sum()), WEIGHTS))
        assert found == [int(array.sum()) for array in WEIGHTS.values()]
        assert model.size <= model.stats().costs.decrypted_bytes <= 1.05 * model.size


def test_a_load_that_another_thread_ends(vault: Session) -> None:
    """By closing the model amid it: an error for who reads, and nothing is left."""
    model = vault.load("m:prod", purpose="inference")
    begun, closed = threading.Event(), threading.Event()
    seen: list[bytes] = []
    told: list[str] = []

    def read() -> None:
        try:
            with model.open("m.safetensors") as file:
                while piece := file.read(1 << 20):
                    seen.append(piece)
                    begun.set()
                    assert closed.wait(60)
        except Conflict as error:
            told.append(error.code)

    reading = threading.Thread(target=read)
    reading.start()
    assert begun.wait(60)
    model.close()
    closed.set()
    reading.join(60)
    assert told == ["closed"]
    assert seen == [safetensors_bytes(WEIGHTS)[: 1 << 20]]
    assert vault.leases() == ()
