"""A folder in memory that is a model's for as long as its lease."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from modelvault.access import Obligations
from modelvault.errors import AccessDenied, Conflict, InvalidRequest, Unavailable
from modelvault.loader import ramfiles
from modelvault.loader.model import Model
from modelvault.running import kernel
from modelvault.running.hold import Hold

SHM = Path("/dev/shm")
pytestmark = pytest.mark.skipif(not SHM.exists(), reason="no shared memory here")


class FakeModel:
    """What a holder sees of one: two files."""

    name = "m@1"

    def __init__(self) -> None:
        self.obligations = Obligations()
        self.during: Callable[[], None] = lambda: None

    def fill(self, folder: Any, tell: object = None) -> None:
        def write(view: memoryview) -> None:
            self.during()
            view[:] = b"weights"

        folder.add("w", 7, write)
        folder.add("deep/w", 7, write)


@pytest.fixture
def fake() -> FakeModel:
    return FakeModel()


@pytest.fixture
def model(fake: FakeModel) -> Model:
    return cast("Model", fake)


@pytest.fixture(autouse=True)
def hidden(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether this process, which isn't to be hidden, was."""
    told: list[bool] = []
    monkeypatch.setattr(kernel, "hide", lambda: told.append(True))
    return told


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder; signals are as before afterwards."""
    folder = Path(tempfile.mkdtemp(dir=SHM))
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    yield folder
    for number, handler in before.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)
    shutil.rmtree(folder)


def _held(root: Path, model: Model, then: Callable[[Hold], object]) -> None:
    with Hold(root) as held:
        held.fill(model)
        then(held)
        held.wait(model)


def test_filled_marked_and_empty_again(root: Path, model: Model) -> None:
    with Hold(root) as held:
        assert not (root / ".modelvault/held").exists()
        held.fill(model)
        assert (root / ".modelvault/held").exists()
        assert (root / "deep/w").read_bytes() == b"weights"
    assert list(root.iterdir()) == []


def test_it_hides_before_there_are_secrets(root: Path, hidden: list[bool]) -> None:
    Hold(root)
    assert hidden == [True]


def test_where_nobody_can_hide_it_is_held_all_the_same(
    root: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError(errno.ENOSYS, "not Linux")

    monkeypatch.setattr(kernel, "hide", refuse)
    with Hold(root) as held:
        held.fill(model)
        assert (root / "w").read_bytes() == b"weights"


def test_a_revocation_ends_the_wait(root: Path, model: Model) -> None:
    with pytest.raises(AccessDenied) as over:
        _held(root, model, lambda held: threading.Timer(0.1, held.on_revoked, ["revoked"]).start())
    assert (over.value.code, "was emptied" in over.value.message) == ("revoked", True)
    assert list(root.iterdir()) == []


def test_a_signal_ends_it(root: Path, model: Model) -> None:
    me = os.getpid()
    with pytest.raises(SystemExit):
        _held(root, model, lambda _: threading.Timer(0.1, os.kill, [me, signal.SIGTERM]).start())
    assert list(root.iterdir()) == []


def test_a_signal_while_it_is_filled(root: Path, fake: FakeModel, model: Model) -> None:
    fake.during = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit), Hold(root) as held:
        held.fill(model)
    assert list(root.iterdir()) == []


def test_the_mark_goes_before_the_files(root: Path, model: Model) -> None:
    """And a second signal doesn't stop the first's work."""
    seen: list[bool] = []
    with Hold(root) as held:
        held.fill(model)
        close = held._files.close

        def closing() -> None:
            seen.append((root / ".modelvault/held").exists())
            os.kill(os.getpid(), signal.SIGTERM)
            close()

        held._files.close = closing  # type: ignore[method-assign]
    assert seen == [False]
    assert list(root.iterdir()) == []


def test_a_revocation_while_a_store_doesnt_answer(
    root: Path, fake: FakeModel, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there already goes at once, whatever becomes of the rest."""
    monkeypatch.setattr(ramfiles, "_FILLING_S", 0.1)
    seen: list[list[str]] = []

    def stall() -> None:
        if (root / "deep").exists():  # the second file is on its way, the first is there
            revoking = threading.Thread(target=held.on_revoked, args=["revoked"])
            revoking.start()
            revoking.join(20)
            seen.append([path.name for path in root.iterdir()])

    fake.during = stall
    with pytest.raises(AccessDenied, match="was emptied") as over, Hold(root) as held:
        held.fill(model)
    assert over.value.code == "revoked"
    assert seen == [[".modelvault"]]
    assert list(root.iterdir()) == []


def test_a_mark_that_comes_too_late(
    root: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch = Path.touch
    with Hold(root) as held:

        def late(path: Path, mode: int) -> None:
            held.on_revoked("revoked")
            touch(path, mode)

        monkeypatch.setattr(Path, "touch", late)
        held.fill(model)
        assert [path.name for path in root.rglob("*")] == [".modelvault"]
        with pytest.raises(AccessDenied):
            held.wait(model)


def test_a_fill_that_fails_leaves_no_mark(root: Path, fake: FakeModel, model: Model) -> None:
    def fail() -> None:
        raise Unavailable("store_unreachable", "no")

    fake.during = fail
    with pytest.raises(Unavailable), Hold(root) as held:
        held.fill(model)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("when", ["at once", "with a renewal"])
def test_what_a_holder_cant_promise(root: Path, fake: FakeModel, model: Model, when: str) -> None:
    ending = Obligations(terminate_on_revoke=5)
    fake.obligations = ending if when == "at once" else Obligations()
    with pytest.raises(AccessDenied) as refused:
        _held(root, model, lambda _: setattr(fake, "obligations", ending))
    assert (refused.value.code, "modelvault run" in refused.value.hint) == (
        "terminate_on_revoke", True,
    )  # fmt: skip
    assert list(root.iterdir()) == []


def test_what_a_killed_holder_left_is_wiped(root: Path, model: Model) -> None:
    (root / ".modelvault").mkdir()
    (root / "w").write_bytes(b"old")
    (root / "old").write_bytes(b"old")
    with Hold(root) as held:
        assert [path.name for path in root.iterdir()] == [".modelvault"]
        held.fill(model)
    assert list(root.iterdir()) == []


def test_other_folders(root: Path, tmp_path: Path) -> None:
    for folder, code in ((root / "none", "no_folder"), (Path("/proc"), "not_in_memory")):
        with pytest.raises(InvalidRequest) as refused:
            Hold(folder)
        assert refused.value.code == code


def test_a_folder_that_cannot_be_looked_at(root: Path) -> None:
    with pytest.raises(Unavailable, match="File name too long") as refused:
        Hold(root / ("x" * 300))
    assert refused.value.code == "cant_write"


def test_a_folder_that_cannot_be_written_to(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(errno.EACCES, "no")

    held = Hold(root)
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(Unavailable, match="Permission denied") as refused, held:
        pass
    assert refused.value.code == "cant_write"


def test_a_folder_of_somebody_elses(root: Path) -> None:
    (root / "mine").write_text("mine")
    with pytest.raises(Conflict) as refused, Hold(root):
        raise AssertionError
    assert refused.value.code == "folder_not_empty"
    assert [path.name for path in root.iterdir()] == ["mine"]


def test_a_folder_that_another_holds(root: Path) -> None:
    descriptor = os.open(root, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    (root / ".modelvault").mkdir()
    (root / "w").write_text("theirs")
    with pytest.raises(Conflict) as refused, Hold(root):
        raise AssertionError
    os.close(descriptor)
    assert refused.value.code == "folder_in_use"
    assert (root / "w").read_text() == "theirs"
