"""What `make bench` runs, on tiny files: every contestant shows every byte, and cold is cold."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import cold
import contest
import contestants
import measure
import parts
import pytest
import small
from contest import Shape
from weights import write_safetensors

from support.engines import need

SHAPE = Shape(3 << 20, 6)
PACKAGES = {
    "safetensors-torch": "torch",
    "runai": "runai_model_streamer",
    "fastsafetensors": "fastsafetensors",
    "tensorizer": "tensorizer",
    "tensorizer-encrypted": "tensorizer",
    "ours-torch": "torch",
    "ours-streaming": "torch",
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "model.safetensors"
    write_safetensors(path, SHAPE.size, SHAPE.tensors)
    return path


@pytest.fixture
def evictable(tmp_path: Path) -> None:
    """A folder in memory can't be put out of it; one on a disk must."""
    file = tmp_path / "probe"
    file.write_bytes(bytes(1 << 20))
    try:
        cold.evict([file])
    except RuntimeError:
        if os.major(tmp_path.stat().st_dev) != 0:
            raise
        pytest.skip("temporary files are in memory here")


@pytest.mark.parametrize("name", contestants.CONTESTANTS)
def test_contestants_show_every_tensor_whole(
    name: str, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("XDG_CONFIG_HOME", "MODELVAULT_THREADS", "RUNAI_STREAMER_CONCURRENCY"):
        monkeypatch.setenv(variable, str(tmp_path))
    if name in PACKAGES:
        need(PACKAGES[name])
    contestant = contestants.CONTESTANTS[name](2)
    source = contestant.prepare(plain, tmp_path)
    shown = []

    def use(tensor: Any) -> None:
        shown.append(hashlib.sha256(contestants.as_bytes(tensor)).hexdigest())

    contestant.load(source, use)
    if name == "mmap":
        assert shown == [hashlib.sha256(plain.read_bytes()).hexdigest()]
    else:
        data, each = plain.read_bytes()[-SHAPE.size :], SHAPE.size // SHAPE.tensors
        pieces = (data[at : at + each] for at in range(0, SHAPE.size, each))
        assert sorted(shown) == sorted(hashlib.sha256(piece).hexdigest() for piece in pieces)


@pytest.mark.usefixtures("evictable")
def test_a_race_prints_a_line_for_each_also_for_the_absent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        contest.workers(["mmap", "safetensors-numpy"], 2) as crew,
        contest.prepared(crew, SHAPE, tmp_path / "files") as sources,
    ):
        crew[1].missing = "it isn't installed"
        found = contest.race(crew, sources, SHAPE, cache="cold", threads=2, rounds=1)
    assert set(found) == {"mmap"}
    assert found["mmap"]["disk_bytes"] >= SHAPE.size  # cold: from the disk
    assert 0 < found["mmap"]["first_s"] <= found["mmap"]["total_s"]
    out = capfd.readouterr().out
    assert '"missing": "it isn\'t installed"' in out
    assert '"contestant": "mmap"' in out
    assert not (tmp_path / "files").exists()


def test_who_fails_is_told_of_and_the_others_go_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A file that is cut is no safetensors file, but can be mapped."""
    with contest.workers(["mmap", "safetensors-numpy", "ours"], 1) as crew:
        cut = tmp_path / "cut"
        cut.write_bytes(bytes(4096))
        sources = {"plain": {"files": [str(cut)]}}
        found = contest.race(crew[:2], sources, SHAPE, cache="warm", threads=1, rounds=1)
        assert set(found) == {"mmap"}
        assert "it failed: SafetensorError" in capfd.readouterr().out
        ours = {"vault": {"files": [], "home": str(tmp_path / "none"), "reference": "m:bench"}}
        with pytest.raises(contest.Failed):
            contest.race(crew[2:], ours, SHAPE, cache="warm", threads=1, rounds=1)


def test_one_process_loads_one_vault_after_the_other(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("MODELVAULT_THREADS", "1")
    ours = contestants.Ours(1)
    shown: list[int] = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        source = ours.prepare(plain, tmp_path / name)
        ours.load(source, lambda tensor: shown.append(tensor.nbytes))
        contestants.remove(source)
    ours.close()
    assert sum(shown) == 2 * SHAPE.size


@pytest.mark.usefixtures("evictable")
def test_evicted_is_out_of_the_page_cache(plain: Path) -> None:
    plain.read_bytes()
    assert cold.cached(plain) == 1
    cold.evict([plain])
    assert cold.cached(plain) == 0


def test_an_eviction_that_failed_is_no_cold_run(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain.read_bytes()
    monkeypatch.setattr(cold.os, "posix_fadvise", lambda *_: None)
    with pytest.raises(RuntimeError, match="still in the page cache"):
        cold.evict([plain])


def test_the_first_tensor_of_a_stream_comes_early(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    need("torch")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    small.first_tensor_case(tmp_path / "first", 64 << 20)
    assert '"bench": "bytes read before the first tensor"' in capsys.readouterr().out


def test_lines_are_kept_beside_being_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_kept", None)
    measure.keep(tmp_path / "lines")
    parts.parts_case(tmp_path / "parts", 2 << 20)
    printed = capsys.readouterr().out
    assert printed.count('"reading": "part"') == 5
    assert (tmp_path / "lines").read_text() == printed
