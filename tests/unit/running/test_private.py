"""Each in a process of its own, whose mounts are its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support import runs

BEGIN = """
import errno, mmap, os, sys
from pathlib import Path
from modelvault.errors import Unavailable
from modelvault.running import private, kernel
place = Path(sys.argv[1])
assert private.enter(place)
folder = private.PrivateFolder(place, "m", private.rounded(iter([5000, 3, 0])))
def write(data):
    return lambda view: view.__setitem__(slice(None), data)
folder.add("a/b.txt", 3, write(b"abc"))
folder.add("weights", 5000, write(b"w" * 5000))
folder.add("empty", 0, None)
"""


@pytest.fixture(autouse=True)
def possible() -> None:
    runs.need_private_mounts()


def inside(script: str, place: Path, *, user: bool = False) -> None:
    prefix = runs.USER if user else ()
    line = [*prefix, sys.executable, "-W", "error", "-c", BEGIN + script, str(place)]
    ended = subprocess.run(line, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("user", [False, True])
def test_read_only_hidden_and_wiped(tmp_path: Path, user: bool) -> None:
    inside(
        """
assert "a/b.txt" in folder and "nothing" not in folder
assert (folder.root / "weights").read_bytes() == b"w" * 5000
folder.lock()
try:
    (folder.root / "new").touch()
except OSError as error:
    assert error.errno == errno.EROFS
else:
    raise AssertionError
opened = (folder.root / "weights").open("rb")
mapped = mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ)
folder.hide()
folder.hide()
assert list(place.iterdir()) == [] and mapped[:2] == b"ww"
folder.close()
assert mapped[:] == bytes(5000) and list(place.iterdir()) == []
folder.close()
""",
        tmp_path,
        user=user,
    )


def test_a_file_that_fails_isnt_there(tmp_path: Path) -> None:
    inside(
        """
def fail(view):
    view[:2] = b"no"
    raise ZeroDivisionError
for path, size, fill, kind in (
    ("broken", 2, fail, ZeroDivisionError), ("large", 1 << 30, write(b""), Unavailable)
):
    try:
        folder.add(path, size, fill)
    except kind as error:
        assert kind is not Unavailable or error.code == "insufficient_memory"
    else:
        raise AssertionError(path)
    assert path not in folder
folder.close()
""",
        tmp_path,
    )


def test_what_others_mounted_is_left_alone(tmp_path: Path) -> None:
    inside(
        """
folder.close()
kernel.mount("other", str(place), "tmpfs", 0, "size=64k")
(place / "theirs").write_bytes(b"theirs")
private.wipe(place)
assert (place / "theirs").read_bytes() == b"theirs"
""",
        tmp_path,
    )


def test_names_that_proc_writes_otherwise(tmp_path: Path) -> None:
    place = tmp_path / "a b\tcä"
    place.mkdir()
    inside("folder.close(); assert not os.path.ismount(place)", place)


def test_nothing_has_changed_where_it_isnt_allowed(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, sys; from modelvault.running import private\n"
        "before = [os.readlink(f'/proc/self/ns/{kind}') for kind in ('mnt', 'user')]\n"
        "print(private.enter(pathlib.Path(sys.argv[1])))\n"
        "assert [os.readlink(f'/proc/self/ns/{kind}') for kind in ('mnt', 'user')] == before"
    )
    line = [*runs._NO_MOUNTS, sys.executable, "-c", script, str(tmp_path)]
    ended = subprocess.run(line, check=False, capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == ("False\n", "")
