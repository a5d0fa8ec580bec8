"""What a push doesn't take, through the command: exit code, file named, next step, nothing left."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelvault import connect, wiring
from support.command import PROGRAM, call
from support.homes import isolated

Command = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = isolated(tmp_path, monkeypatch)
    wiring.init()
    with connect() as vault:
        vault.create("m")
    return made


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Exit code and JSON document of a command, called in this process."""

    def called(*words: str | Path) -> tuple[int, dict[str, Any]]:
        told = call(capsys, "--json", *words)
        assert "Traceback" not in told.err
        return told.code, json.loads(told.out)

    return called


def nothing_is_left(command: Command, home: Path, at_least_tried: bool = False) -> None:
    code, shown = command("show", "m")
    assert code == 0
    assert shown["versions"] == []
    assert [path for path in (home / "objects").rglob("*") if path.is_file()] == []
    assert at_least_tried or not any(
        entry["action"] == "push" for entry in command("audit")[1]["entries"]
    )


def then_a_push_works(command: Command, tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.mkdir()
    (good / "a.dat").write_bytes(b"good")
    code, pushed = command("push", good, "m")
    assert (code, pushed["version"]) == (0, 1)


def folder(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def made(place: Path) -> None:
        place.mkdir()
        (place / "weights.dat").write_bytes(b"weights")
        make(place)

    return made


def a_socket(place: Path) -> None:
    # bound through a relative name: a socket's path may be only 108 bytes long
    here = Path.cwd()
    os.chdir(place)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("sock")
    finally:
        os.chdir(here)


def link(target: str) -> Callable[[Path], object]:
    return lambda place: (place / "link").symlink_to(target)


# what lies there, what the message names
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda _place: None, "model"),
    "empty folder": (Path.mkdir, "model"),
    "only folders": (folder(lambda p: [(p / "weights.dat").unlink(), (p / "x").mkdir()]), "model"),
    "link that leaves": (folder(link("/etc/passwd")), "link"),
    "link up": (folder(link("..")), "link"),
    "broken link": (folder(link("nowhere")), "link"),
    "link in a circle": (folder(link("link")), "link"),
    "fifo": (folder(lambda p: os.mkfifo(p / "pipe")), "pipe"),
    "socket": (folder(a_socket), "sock"),
    "differ in case": (folder(lambda p: (p / "WEIGHTS.dat").write_bytes(b"x")), "case"),
    "differ in Unicode form": (
        folder(lambda p: [(p / "\u00e9").write_bytes(b"x"), (p / "e\u0301").write_bytes(b"x")]),
        "Unicode",
    ),
    "not UTF-8": (folder(lambda p: (p / os.fsdecode(b"w\xff")).write_bytes(b"x")), "UTF-8"),
    "control character": (folder(lambda p: (p / "a\nb").write_bytes(b"x")), "a\\nb"),
    "backslash": (folder(lambda p: (p / "a\\b").write_bytes(b"x")), "a\\\\b"),
    "long name": (
        folder(lambda p: (p / ("d" * 250) / ("e" * 250) / ("f" * 250) / ("g" * 250)).mkdir(
            parents=True
        ) or (p / ("d" * 250) / ("e" * 250) / ("f" * 250) / ("g" * 250) / "hhhhhhhhhhhhhhhhhhhhhhh")
        .write_bytes(b"x")),
        "1024",
    ),
    "too many files": (
        folder(lambda p: [os.close(os.open(p / f"{n}", os.O_CREAT)) for n in range(10_000)]),
        "10,000",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input(command: Command, home: Path, tmp_path: Path, case: str) -> None:
    make, named = REFUSED[case]
    make(tmp_path / "model")
    code, told = command("push", tmp_path / "model", "m:prod")
    error = told["error"]
    assert code == 2, told
    assert named in error["message"], error
    assert error["hint"]
    nothing_is_left(command, home)
    then_a_push_works(command, tmp_path)


def test_too_many_files_of_many_folders(command: Command, home: Path, tmp_path: Path) -> None:
    place = tmp_path / "many"
    for number in range(12_000):
        folder = place / str(number % 100)
        folder.mkdir(parents=True, exist_ok=True)
        os.close(os.open(folder / str(number), os.O_CREAT | os.O_WRONLY))
    code, told = command("push", place, "m")
    assert code == 2
    assert told["error"]["code"] == "too_many_files"
    assert "10,000" in told["error"]["message"]
    nothing_is_left(command, home)


def test_a_file_of_no_bytes_and_one_that_is_hidden(
    command: Command, home: Path, tmp_path: Path
) -> None:
    place = tmp_path / "model"
    place.mkdir()
    (place / "empty").touch()
    (place / ".git").mkdir()
    (place / ".git" / "config").write_text("x")
    assert command("push", place, "m")[0] == 0
    with connect() as vault, vault.load("m", purpose="inference") as model:
        assert model.files == ("empty",)
        assert bytes(model.read_bytes("empty")) == b""


def test_unreadable(home: Path, tmp_path: Path) -> None:
    """As another user: root reads everything."""
    if os.geteuid() != 0:
        pytest.skip("needs to become another user")
    place = tmp_path / "model"
    place.mkdir(mode=0o755)
    (place / "weights.dat").write_bytes(b"x")
    (place / "weights.dat").chmod(0o000)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_mode & 0o005 != 0o005:
            path.chmod(0o755)
    script = f"""
import os
from pathlib import Path
from modelvault.client.scan import scan
from modelvault.errors import ModelVaultError
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    scan(Path({str(place)!r}), follow_links=False)
except ModelVaultError as error:
    print(error.family, error.code, error.message)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("invalid_request unreadable")
    assert "weights.dat" in done.stdout


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home on a disk of a few MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mounted = tmp_path / "disk"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(mounted)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody mount")
    isolated(tmp_path, monkeypatch)
    monkeypatch.setenv("MODELVAULT_HOME", str(mounted / "home"))
    wiring.init()
    with connect() as vault:
        vault.create("m")
    yield mounted / "home"
    subprocess.run(["umount", str(mounted)], check=True)


def test_a_disk_that_fills_up_half_way(command: Command, small_disk: Path, tmp_path: Path) -> None:
    place = tmp_path / "model"
    place.mkdir()
    for number in range(5):
        (place / f"{number}.dat").write_bytes(os.urandom(1 << 20))
    code, told = command("push", place, "m:prod")
    assert code == 6
    assert told["error"]["code"] == "store_full"
    assert str(small_disk) in told["error"]["message"]
    nothing_is_left(command, small_disk, at_least_tried=True)
    then_a_push_works(command, tmp_path)


def test_eight_processes_push_one_name_at_once(home: Path, tmp_path: Path) -> None:
    (tmp_path / "a.dat").write_bytes(b"a" * 100_000)
    running = [
        subprocess.Popen(
            [PROGRAM, "--json", "push", tmp_path / "a.dat", "m:prod"], stdout=subprocess.PIPE
        )
        for _ in range(8)
    ]
    told = [json.loads(process.communicate()[0]) for process in running]
    assert [process.returncode for process in running] == [0] * 8, told
    assert sorted(document["version"] for document in told) == list(range(1, 9))
    with connect() as vault:
        assert {tag.tag for tag in vault.show("m").summary.tags} == {"prod"}
        vault.load("m:prod", purpose="inference").close()
