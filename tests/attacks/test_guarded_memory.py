"""Decrypted weights and keys where others look: core dumps, swap, forks, and what is left behind.

A real vault, a real job; the dump is the kernel's own where it writes one into a folder.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from modelvault import connect, wiring
from modelvault.crypto import derive, floe
from modelvault.crypto.floe import HEADER_BYTES, Geometry
from modelvault.crypto.secret import Secret
from support.attacked import folder
from support.homes import isolated, safetensors_bytes
from support.maps import flags, mapping, swapped

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what Linux does with memory")
MIB = 1 << 20
WEIGHTS = {
    f"w{number}": np.random.default_rng(number).integers(0, 256, (256, 4096), "u1")
    for number in range(4)
}
PLACES = [(row, column) for row in (0, 100, 255) for column in (0, 2000)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        made = isolated(tmp_path_factory.mktemp("guarded"), patch)
        wiring.init(segment_length=1 << 16)
        with connect() as vault:
            vault.create("m")
            files = {"w.safetensors": safetensors_bytes(WEIGHTS)}
            vault.push(folder(made.parent / "in", files), "m")
        yield made


def found_in(memory: bytes) -> list[str]:
    """The tensors of which 64 bytes in a row are somewhere in it."""
    return [
        f"{name}[{row}, {column}]"
        for name, array in WEIGHTS.items()
        for row, column in PLACES
        if array[row, column : column + 64].tobytes() in memory
    ]


def test_the_search_finds_weights_that_are_there() -> None:
    assert len(found_in(safetensors_bytes(WEIGHTS))) == len(WEIGHTS) * len(PLACES)


# What a job has in its memory: views of a file, a part of a tensor, keys, and something of its own.
JOB = """
import gc, os, signal, sys
import numpy
from modelvault import connect
from modelvault.client.load import Grant
vault = connect()
model = vault.load("m", purpose="inference")
views = model.tensors()
part = model.get_slice("w3", framework="numpy")[:, 5:4000]
total = int(sum(view.sum() for view in views.values())) + int(part.sum())
own = bytearray(b"%d weights of its own" % len(views))
granted = next(thing for thing in gc.get_objects() if isinstance(thing, Grant))
for key in granted._keys.values():
    os.write(1, key.reveal())
"""
DUMPS = """
import resource
resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
os.abort()
"""
WAITS = """
os.write(1, b"ready")
signal.pause()
"""


def run(script: str, place: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", JOB + script], cwd=place, stdout=subprocess.PIPE)


def dump(place: Path) -> tuple[bytes, bytes]:
    """(the job's file keys, what a crash of it leaves on the disk)."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    if re.fullmatch(r"[\w.%-]+", pattern) and hard == resource.RLIM_INFINITY:
        job = run(DUMPS, place)
        keys, _ = job.communicate(timeout=60)
        assert job.returncode == -signal.SIGABRT
        (core,) = place.iterdir()
        return keys, core.read_bytes()
    return alive(place, lambda line: " dd" not in line)


def alive(place: Path, wanted: object) -> tuple[bytes, bytes]:
    """(its keys, the mappings whose flags are wanted), out of the living job: what would be dumped
    is known by the flags that the kernel goes by."""
    job = run(WAITS, place)
    try:
        assert job.stdout is not None
        keys = b""
        while not keys.endswith(b"ready"):
            keys += os.read(job.stdout.fileno(), 4096)
        return keys.removesuffix(b"ready"), _read(job.pid, wanted)
    finally:
        job.kill()
        job.communicate()


def _read(process: int, wanted: object) -> bytes:
    memory, begin, end, readable = b"", 0, 0, False
    with Path(f"/proc/{process}/mem").open("rb", 0) as file:
        for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
            head = re.match(r"([0-9a-f]+)-([0-9a-f]+) (r?)", line)
            if head:
                begin, end, readable = int(head[1], 16), int(head[2], 16), bool(head[3])
            elif line.startswith("VmFlags:") and readable and wanted(line):  # type: ignore[operator]
                try:
                    file.seek(begin)
                    memory += file.read(end - begin)
                except (OSError, ValueError, OverflowError):
                    continue  # the kernel's own pages
    return memory


def test_a_core_dump_holds_neither_weights_nor_their_keys(home: Path, tmp_path: Path) -> None:
    key, core = dump(tmp_path)
    assert b"4 weights of its own" in core  # it is this job's memory
    assert found_in(core) == []
    assert len(key) == 32
    for one in (key, *derived(home, key)):
        assert one not in core


def derived(home: Path, key: bytes) -> list[bytes]:
    """The file's message key, and the key of its segments as OpenSSL gets it."""
    with connect() as vault, vault.load("m", purpose="inference") as model:
        (entry,) = model.manifest.files
    header = (home / entry.object).read_bytes()[:HEADER_BYTES]
    aad, geometry = derive.file_aad(entry.artifact, entry.path), Geometry(entry.segment_length)
    keys = floe._opened(Secret.copy_of(key), aad, geometry, header)
    message = bytes(keys._message_key.reveal())
    return [message, bytes(keys._kdf(keys._message_key, b"DEK:" + bytes(8), 32).reveal())]


def test_what_isnt_dumped_is_where_they_are(home: Path, tmp_path: Path) -> None:
    """The counterpart: they were in the memory that was searched."""
    keys, guarded = alive(tmp_path, lambda line: " dd" in line and " dc" in line)
    assert len(found_in(guarded)) == len(WEIGHTS) * len(PLACES)
    assert keys in guarded


def test_what_the_kernel_says_of_a_jobs_memory(home: Path) -> None:
    with connect() as vault, vault.load("m", purpose="inference") as model:
        views = model.tensors()
        part = model.get_slice("w1", framework="numpy")[3:5]
        for held in (*views.values(), part):
            address = int(held.__array_interface__["data"][0])
            told = flags(address)
            assert {"dd", "dc"} <= told  # neither dumped nor forked
            assert mapping(address)["Swap"] == "0 kB"
            if locks():
                assert "lo" in told
        if locks():
            assert swapped() == 0
        del views, part, held


def locks() -> bool:
    """Whether this process may lock the whole of it."""
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return os.geteuid() == 0 or limit == resource.RLIM_INFINITY


ENDS = {
    "the end of a with": "model.close()",
    "an exception": "raise KeyError('of the job')",
    "sys.exit": "sys.exit(0)",
    "ctrl-c": "os.kill(os.getpid(), signal.SIGINT)",
    "a terminating signal that is handled": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        "os.kill(os.getpid(), signal.SIGTERM)"
    ),
}
# Looks last of all: registered before anything else was imported.
LOOKS = """
import atexit, sys
held = {}
def look(place):
    try:
        with open("/proc/self/mem", "rb", 0) as memory:
            memory.seek(place)
            return memory.read(4096)
    except OSError:
        return b""
def tell():
    sys.stderr.write(f"left: {[look(place) == seen for place, seen in held.items()]}\\n")
atexit.register(tell)
"""


@pytest.mark.parametrize("end", list(ENDS))
def test_nothing_is_left_whichever_way_a_job_ends(home: Path, tmp_path: Path, end: str) -> None:
    drops = "views = part = None\n" if end == "the end of a with" else ""
    script = (
        LOOKS + JOB
        + 'places = [v.__array_interface__["data"][0] for v in (*views.values(), part)]\n'
        + "held |= {place: look(place) for place in places}\n"
        + "assert all(map(any, held.values()))\n" + drops + ENDS[end]
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, check=False, timeout=60
    )
    assert b"left: [False, False, False, False, False]" in done.stderr, done.stderr
    assert b"Exception ignored" not in done.stderr


FORKS = """
import multiprocessing, sys
import numpy
from modelvault import connect, errors, inherited

def reads_views():
    print("sum", int(views["w0"].sum()), flush=True)

def asks_the_model():
    try:
        model.tensor("w0")
    except errors.Conflict as told:
        print("told", told.code, flush=True)

def begin(method, target):
    child = multiprocessing.get_context(method).Process(target=target)
    child.start()
    child.join(60)
    print("ended", child.exitcode, flush=True)

if __name__ == "__main__":
    with connect() as vault, vault.load("m", purpose="inference") as model:
        views = model.tensors()
        begin("fork", asks_the_model)
        begin("fork", reads_views)
        with inherited():
            begin("fork", reads_views)
        try:
            multiprocessing.get_context("spawn").Process(target=begin, args=(model, 1)).start()
        except TypeError as refused:
            print("refused", "attach()" in str(refused))
        reads_views()
        del views
"""


def test_what_children_get(home: Path, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(FORKS)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "job.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    total = f"sum {int(WEIGHTS['w0'].sum())}"
    assert done.stdout.splitlines() == [
        "told forked", "ended 0",
        f"ended {-signal.SIGSEGV}",  # never a sum of zeros
        total, "ended 0",
        "refused True",
        total,
    ], done.stderr  # fmt: skip
    assert "Segmentation fault" in done.stderr
    assert "in reads_views" in done.stderr  # the line that read it
