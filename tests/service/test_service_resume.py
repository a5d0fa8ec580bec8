"""A push that is killed goes on where it stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelvault.adapters.objects_http import reader
from modelvault.client.source import Source

SIZE = 40 << 20  # five parts of 8 MiB
LARGE = 320 << 20  # 40 parts; what two threads have in their hands is lost besides the rest
KILLED_AT = 4
KILLED_AT_90 = 37

SCRIPT = """
import os, sys, threading
import modelvault
from modelvault.adapters.objects_http.transport import Transport

lock, left, real = threading.Lock(), [int(sys.argv[3])], Transport.put

def put(self, link, body):
    status = real(self, link, body)
    with lock:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), 9)
    return status

Transport.put = put
with modelvault.connect() as vault:
    print(vault.push(sys.argv[1], sys.argv[2]).version)
"""


def folder_of(folder: Path, size: int) -> Path:
    folder.mkdir()
    with (folder / "weights.dat").open("wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def big(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "big", SIZE)


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Path]:
    folder = folder_of(tmp_path / "large", LARGE)
    yield folder
    shutil.rmtree(folder)


def environment(stack, home: Path) -> dict[str, str]:
    return {
        "MODELVAULT_BROKER": stack.urls[0], "MODELVAULT_CA": str(stack.ca),
        "MODELVAULT_TRUST": str(stack.trust), "MODELVAULT_TOKEN": stack.admin(),
        "HOME": str(home), "PATH": "/usr/bin:/bin", "MODELVAULT_THREADS": "2",
    }  # fmt: skip


def killed(stack, home: Path, folder: Path, name: str, after: int) -> None:
    """A push that dies at its nth request to put something."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, folder, name, str(after)],
        env=environment(stack, home), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr


def again(stack, home: Path, monkeypatch: pytest.MonkeyPatch):
    from modelvault import wiring

    return wiring.connect_with(environment(stack, home))


def journals(home: Path) -> list[Path]:
    return list(home.rglob("*.journal"))


def test_a_push_killed_at_90_percent_sends_the_rest_alone(
    stack, session, admin, name, large, tmp_path, monkeypatch, sent
) -> None:
    admin.create(name, classification="internal")
    home = tmp_path / "home"
    killed(stack, home, large, name, KILLED_AT_90)
    (journal,) = journals(home)
    assert journal.stat().st_mode & 0o077 == 0
    progress: list[tuple[int, int]] = []
    with again(stack, home, monkeypatch) as vault:
        pushed = vault.push(
            large, name, progress=lambda done, total: progress.append((done, total))
        )
    assert pushed.version == 1
    assert sum(sent) <= 0.15 * LARGE
    assert progress[-1][0] == progress[-1][1]
    assert journals(home) == []
    job = session(stack.token("job", "inference"))
    with job.load(name, purpose="inference") as loaded:
        assert bytes(loaded.read_bytes("weights.dat")) == (large / "weights.dat").read_bytes()
    resumed = [e for e in admin.entries(reference=name).entries if "step" in e.details]
    assert [e.details["step"] for e in resumed] == ["content_key", "resume"]


def test_a_file_that_changed_meanwhile_is_sent_anew(
    stack, session, admin, name, big, tmp_path, monkeypatch, sent
) -> None:
    """Even under its old size and times: a version is never of two states of one file."""
    admin.create(name, classification="internal")
    home = tmp_path / "home"
    killed(stack, home, big, name, KILLED_AT)
    weights = big / "weights.dat"
    before = weights.stat()
    with weights.open("r+b") as file:
        file.write(b"changed")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    with again(stack, home, monkeypatch) as vault:
        vault.push(big, name)
    assert sum(sent) >= SIZE
    with session(stack.token("job", "inference")).load(name, purpose="inference") as loaded:
        assert bytes(loaded.read_bytes("weights.dat")) == weights.read_bytes()


def test_a_second_push_killed_half_way_compares_once_and_sends_the_rest(
    stack, admin, name, big, tmp_path, monkeypatch, sent
) -> None:
    """What was found unchanged isn't read again, what was found changed isn't compared again."""
    admin.create(name, classification="internal")
    (big / "other.dat").write_bytes(os.urandom(SIZE))
    admin.push(big, name)
    with (big / "weights.dat").open("r+b") as file:
        file.write(b"changed")
    home = tmp_path / "home"
    killed(stack, home, big, name, KILLED_AT)
    sent.clear()
    read: Counter[str] = Counter()
    real = Source.read_into

    def read_into(self: Source, offset: int, buffer: memoryview) -> None:
        read[self._found.path] += len(buffer)
        real(self, offset, buffer)

    monkeypatch.setattr(Source, "read_into", read_into)
    with again(stack, home, monkeypatch) as vault:
        pushed = vault.push(big, name)
        assert (pushed.version, pushed.unchanged) == (2, ("config.json", "other.dat"))
        assert sum(sent) < SIZE
        assert read["other.dat"] < 1 << 20  # its first bytes, to tell the format
        assert read["weights.dat"] < SIZE
        third = vault.push(big, name)
        assert third.unchanged == ("config.json", "other.dat", "weights.dat")


@pytest.mark.parametrize("broken", ["torn", "other", "empty", "another identity"])
def test_a_journal_that_is_no_use_is_no_error(
    stack, admin, name, big, tmp_path, monkeypatch, sent, broken: str
) -> None:
    admin.create(name, classification="internal")
    home = tmp_path / "home"
    killed(stack, home, big, name, 3)
    (journal,) = journals(home)
    if broken == "torn":
        journal.write_bytes(journal.read_bytes()[:-10])
    elif broken == "other":
        journal.write_bytes(b'{"type":"upload","upload":"' + b"0" * 32 + b'"}\n')
    elif broken == "empty":
        journal.write_bytes(b"")
    else:
        told = stack.token("pushy", "vault-admins")
        monkeypatch.setattr(type(stack), "admin", lambda _self: told)
    with again(stack, home, monkeypatch) as vault:
        assert vault.push(big, name).version == 1


PULL = """
import os, sys
import modelvault
from modelvault.adapters.objects_http import reader

left, real = [int(sys.argv[3])], reader.read_some

def read_some(answer, buffer):
    count = real(answer, buffer)
    left[0] -= count
    if left[0] <= 0:
        os.kill(os.getpid(), 9)
    return count

reader.read_some = read_some
with modelvault.connect() as vault:
    vault.pull(sys.argv[1], sys.argv[2])
"""


def test_a_pull_killed_at_90_percent_fetches_the_rest_alone(
    stack, admin, name, large, tmp_path, monkeypatch
) -> None:
    admin.create(name, classification="internal")
    admin.push(large, name)
    home, copy = tmp_path / "home", tmp_path / "copy"
    done = subprocess.run(
        [sys.executable, "-c", PULL, f"{name}@1", copy, str(LARGE * 9 // 10)],
        env=environment(stack, home), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not copy.exists()
    (draft,) = tmp_path.glob(".copy.*")
    largest = max((path for path in draft.rglob("*") if path.is_file()), key=os.path.getsize)
    damaged = largest.stat().st_size - (2 << 20)
    with largest.open("r+b") as file:  # what is left is believed as little as what is fetched
        file.seek(damaged)
        file.write(b"damaged")
    fetched: list[int] = []
    real = reader.read_some

    def counting(answer, buffer) -> int:
        fetched.append(real(answer, buffer))
        return fetched[-1]

    monkeypatch.setattr(reader, "read_some", counting)
    with again(stack, home, monkeypatch) as vault:
        manifest = vault.pull(f"{name}@1", copy)
    assert sum(fetched) <= 0.15 * LARGE
    assert list(tmp_path.glob(".copy.*")) == []
    for entry in manifest.files:
        assert (copy / entry.object).stat().st_size > entry.size
    shutil.rmtree(copy)


def test_without_a_home_there_is_just_no_going_on(stack, admin, name, model, monkeypatch) -> None:
    admin.create(name, classification="internal")
    told = environment(stack, Path("/proc/nowhere"))
    from modelvault import wiring

    with wiring.connect_with(told) as vault:
        assert vault.push(model, name).version == 1
