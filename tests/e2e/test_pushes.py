"""Pushes into a real embedded vault that are disturbed, and many at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelvault import connect, wiring
from modelvault.client.session import Session
from modelvault.errors import Conflict, InvalidRequest, NotFound, Unavailable
from support.homes import isolated


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = isolated(tmp_path, monkeypatch)
    wiring.init()
    with connect() as vault:
        vault.create("m")
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "weights.dat").write_bytes(os.urandom(5 << 20))
    (made / "a.txt").write_text("a")
    return made


def objects(home: Path) -> list[Path]:
    return [path for path in (home / "objects").rglob("*") if path.is_file()]


def whole(vault: Session, folder: Path, version: int) -> None:
    """That version, and no later one, is there, and it is what lies in `folder`."""
    (summary,) = vault.list()
    assert summary.latest == (version or None)
    if version:
        with vault.load("m", purpose="inference") as model:
            for path in model.files:
                assert model.open(path).read() == (folder / path).read_bytes()


def test_eight_at_once_are_eight_versions(home: Path, folder: Path) -> None:
    with connect() as vault, ThreadPoolExecutor(8) as pool:
        start = threading.Barrier(8)

        def push(number: int) -> int:
            start.wait()
            return vault.push(folder, f"m:t{number}").version

        versions = list(pool.map(push, range(8)))
        assert sorted(versions) == list(range(1, 9))
        for number, version in enumerate(versions):
            with vault.load(f"m:t{number}", purpose="inference", files=["a.txt"]) as model:
                assert model.manifest.version == version
                assert model.open("a.txt").read() == b"a"
        chain = [vault.show(f"m@{n}").signed for n in range(1, 9)]
        assert all(signed is not None for signed in chain)


def test_ctrl_c_half_way(home: Path, folder: Path) -> None:
    def interrupted(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with connect() as vault:
        with pytest.raises(KeyboardInterrupt):
            vault.push(folder, "m:prod", progress=interrupted)
        assert objects(home) == []
        whole(vault, folder, 0)
        assert vault.push(folder, "m:prod").version == 1
        whole(vault, folder, 1)


CTRL_C = """
import os, signal, sys, time
from modelvault import connect
def slow(done, total):
    print("under way", flush=True)
    time.sleep(0.2)
with connect() as vault:
    vault.push(sys.argv[1], "m", progress=slow)
"""


def test_a_real_ctrl_c_in_another_process(home: Path, folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CTRL_C, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"under way\n"
    process.send_signal(signal.SIGINT)
    _out, error = process.communicate(timeout=30)
    assert process.returncode != 0
    assert b"KeyboardInterrupt" in error
    assert objects(home) == []
    with connect() as vault:
        whole(vault, folder, 0)
        assert vault.push(folder, "m").version == 1
        whole(vault, folder, 1)


def test_a_file_that_changes(home: Path, folder: Path) -> None:
    def touch(_done: int, _total: int) -> None:
        os.utime(folder / "weights.dat", ns=(1, 1))

    with connect() as vault:
        with pytest.raises(Conflict) as caught:
            vault.push(folder, "m", progress=touch)
        assert caught.value.code == "file_changed"
        assert objects(home) == []
        whole(vault, folder, 0)


def test_bad_input_asks_the_vault_for_nothing(home: Path, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with connect() as vault:
        before = len(vault.entries().entries)
        with pytest.raises(InvalidRequest, match="pipe"):
            vault.push(folder, "m")
        assert len(vault.entries().entries) == before


def test_a_model_that_was_never_made(home: Path, folder: Path) -> None:
    with connect() as vault, pytest.raises(NotFound, match="other") as caught:
        vault.push(folder, "other")
    assert caught.value.hint
    assert objects(home) == []


def test_empty_and_many_small_files(home: Path, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for number in range(100):
        (many / f"{number:03}.txt").write_bytes(b"x" * number)
    with connect() as vault:
        assert vault.push(many, "m").found.size == sum(range(100))
        whole(vault, many, 1)


@contextmanager
def read_only(home: Path) -> Iterator[None]:
    """Nobody may write in the home; root would, so root becomes somebody else meanwhile."""
    every = [home, *home.rglob("*")]
    root = os.geteuid() == 0
    for path in every:
        if root:
            os.chown(path, 65534, 65534)
        path.chmod(0o500 if path.is_dir() else 0o400)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path in every:
            path.chmod(0o700 if path.is_dir() else 0o600)


def test_a_home_that_became_read_only(home: Path, folder: Path) -> None:
    for path in (folder, *folder.parents):  # for another user, all the way down
        if path.stat().st_mode & 0o055 != 0o055:
            path.chmod(0o755)
    with connect() as vault:
        vault.push(folder, "m")  # whatever is imported at first use is imported by now
        with read_only(home), pytest.raises(Unavailable) as caught:
            vault.push(folder, "m")
        assert caught.value.code in {"store_unwritable", "ledger_unavailable"}
        assert str(home) in caught.value.message or "ledger" in caught.value.message
        whole(vault, folder, 1)
        assert vault.push(folder, "m").version == 2
