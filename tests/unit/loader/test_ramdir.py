from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from modelvault.errors import NotFound, Unavailable
from modelvault.loader import ramdir
from modelvault.loader.ramdir import RamFolder
from support.loading import Sealed, Version
from support.maps import flags

FILES = {
    "config.json": b'{"x": 1}',
    "1_Pooling/config.json": b"{}",
    "weights": bytes(range(256)) * 100,
    "empty": b"",
}

READ = """
import pathlib, sys, hashlib
root = pathlib.Path(sys.argv[1])
for path in sorted(root.rglob("*")):
    if path.is_file():
        print(path.relative_to(root), hashlib.sha256(path.read_bytes()).hexdigest())
"""


def test_a_child_process_reads_it() -> None:
    import hashlib

    with Sealed(FILES).model() as model:
        run = subprocess.run(
            [sys.executable, "-c", READ, str(model.path())],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    found = dict(line.rsplit(" ", 1) for line in run.stdout.splitlines())
    assert found == {path: hashlib.sha256(data).hexdigest() for path, data in FILES.items()}


def _place(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def test_while_it_is_filled_neither_core_dumps_nor_children_have_it() -> None:
    found: list[set[str]] = []
    folder = RamFolder()
    folder.add("weights", 5000, lambda view: found.append(flags(_place(view))))
    folder.close()
    assert found[0] >= {"dd", "dc"}


def test_nothing_of_it_is_on_a_disk_and_nobody_else_may_look() -> None:
    with Version(FILES).model() as model:
        root = model.path()
        assert stat.S_IMODE(root.stat().st_mode) == 0o700
        for path in FILES:
            link = root / path
            assert link.is_symlink()
            assert str(link.readlink()).startswith(f"/proc/{os.getpid()}/fd/")
            assert "memfd:modelvault" in str(link.readlink().readlink())


def test_files_are_sealed() -> None:
    with Version(FILES).model() as model:
        path = model.path() / "weights"
        with pytest.raises(PermissionError):
            path.write_bytes(b"x")
        descriptor = os.open(path, os.O_RDWR)
        with pytest.raises(PermissionError):
            os.write(descriptor, b"x")
        os.close(descriptor)
        with pytest.raises(PermissionError):
            os.truncate(path, 1)
        with path.open("rb") as file:
            seals = fcntl.fcntl(file, fcntl.F_GET_SEALS)
        assert seals & fcntl.F_SEAL_WRITE
        assert seals & fcntl.F_SEAL_SEAL
        assert path.read_bytes() == FILES["weights"]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_it_is_gone_after_close() -> None:
    before = open_files()
    with Version(FILES).model() as model:
        root = model.path()
        link = (root / "weights").readlink()
        assert open_files() == before + len(FILES)
    assert not root.exists()
    assert not link.exists()
    assert open_files() == before


def test_one_folder_that_grows() -> None:
    version = Version(FILES)
    with version.model() as model:
        root = model.path("config.json")
        assert [path.name for path in root.iterdir()] == ["config.json"]
        assert model.path("weights", "weights") == root
        read = version.bytes_read
        assert model.path("config.json", "weights") == root
        assert version.bytes_read == read
        assert model.path() == root
        assert (root / "1_Pooling/config.json").read_bytes() == b"{}"


def test_what_is_in_memory_is_not_decrypted_again() -> None:
    version = Version(FILES)
    with version.model() as model:
        model.read_bytes("weights")
        before = version.readers["weights"].bytes_read
        assert (model.path() / "weights").read_bytes() == FILES["weights"]
        assert version.readers["weights"].bytes_read == before


def test_the_memory_is_counted() -> None:
    asked = []
    with Version(FILES).model(fits=asked.append) as model:
        model.path()
        assert asked[0] == sum(map(len, FILES.values()))


def test_an_error_leaves_no_file_behind() -> None:
    before = open_files()
    version = Sealed(FILES)
    version.flip("weights", 5000)
    model = version.model()
    from modelvault.errors import IntegrityError

    with pytest.raises(IntegrityError, match="weights"):
        model.path()
    root = model.path("config.json")
    assert not (root / "weights").exists()
    model.close()
    assert open_files() == before


def test_systems_without_memory_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with Version(FILES).model() as model, pytest.raises(Unavailable) as caught:
        model.path()
    assert caught.value.code == "no_ram_folder"
    assert "tensors()" in caught.value.hint


def test_links_lie_in_shared_memory_where_nothing_else_can_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = only_in(monkeypatch, "/dev/shm")
    with Version(FILES).model() as model:
        assert model.path().parent == Path("/dev/shm")
    assert made == [None, "/dev/shm"]


def test_a_machine_that_is_read_only_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    only_in(monkeypatch, "nowhere")
    with Version(FILES).model() as model, pytest.raises(Unavailable) as caught:
        model.path()
    assert caught.value.code == "no_ram_folder"
    assert "TMPDIR" in caught.value.hint


def only_in(monkeypatch: pytest.MonkeyPatch, place: str) -> list[str | None]:
    """Temporary folders can be made in `place` alone; the list fills with where it was tried."""
    make, tried = tempfile.mkdtemp, []

    def mkdtemp(*, prefix: str, dir: str | None = None) -> str:
        tried.append(dir)
        if dir != place:
            raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")
        return make(prefix=prefix, dir=dir)

    monkeypatch.setattr(ramdir.tempfile, "mkdtemp", mkdtemp)
    return tried


def fail_with(number: int):
    def fail(*_arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("name", "number", "code", "hint"),
    [
        ("memfd_create", errno.EMFILE, "no_ram_folder", "ulimit"),
        ("posix_fallocate", errno.ENOSPC, "insufficient_memory", "more memory"),
    ],
)
def test_limits_of_the_system(
    name: str, number: int, code: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_files()
    monkeypatch.setattr(os, name, fail_with(number))
    with Version(FILES).model() as model, pytest.raises(Unavailable) as caught:
        model.path("weights")
    assert caught.value.code == code
    assert hint in caught.value.hint
    assert open_files() == before


@pytest.mark.parametrize("name", ["geteuid", "stat"])
def test_a_process_that_hides_its_files_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "geteuid":
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
    else:
        monkeypatch.setattr(Path, "stat", fail_with(errno.ENOENT))
    with pytest.raises(Unavailable, match="PR_SET_DUMPABLE"):
        RamFolder()


def test_a_forked_child_removes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RamFolder()
    folder.add("x", 1, lambda view: None)
    with monkeypatch.context() as patch:
        patch.setattr(ramdir.os, "getpid", lambda: 1 << 30)
        ramdir._remove(folder.root, folder._files, os.getppid())
    assert (folder.root / "x").read_bytes() == b"\0"
    folder.close()
    folder.close()
    assert not folder.root.exists()


def test_a_path_that_is_not_there_makes_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Version(FILES).model() as model:
        with pytest.raises(NotFound):
            model.path("nope")
        assert not list(tmp_path.iterdir())


SCRIPT = """
import sys; sys.path[:0] = sys.argv[1:]
from support.loading import Version
model = Version({"a": b"abc"}).model()
print(model.path())
"""


def test_the_folder_goes_when_the_process_ends_without_a_close() -> None:
    tests = str(Path(__file__).parents[2])
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, tests], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip()
    assert not Path(run.stdout.strip()).exists()
    assert not run.stderr
