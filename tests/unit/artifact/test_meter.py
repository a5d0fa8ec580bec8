"""What reading costs, counted."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from modelvault.artifact.leaves import list_size
from modelvault.artifact.meter import Meter, Metered
from modelvault.artifact.reader import FileReader
from modelvault.crypto.floe import HEADER_BYTES, OVERHEAD, Geometry
from modelvault.errors import IntegrityError, NotFound
from support.artifacts import file_key, put_file, read
from support.memory_store import MemoryStore

PLAIN = bytes(range(256)) * 4
SEGMENT = 64


def metered(store: MemoryStore, meter: Meter, plain: bytes = PLAIN) -> FileReader:
    entry = put_file(store, plain, segment_length=SEGMENT)
    return FileReader(
        Metered(store, "memory", meter), entry, file_key(entry.path), "blake3", 3, meter
    )


def test_a_whole_file_is_read_once() -> None:
    store, meter = MemoryStore(), Meter()
    source = metered(store, meter)
    assert meter.costs().read_bytes == {}
    assert read(source) == PLAIN
    geometry = Geometry(SEGMENT)
    segments = geometry.ciphertext_size(len(PLAIN)) - HEADER_BYTES
    costs = meter.costs()
    assert costs.read_bytes == {
        "memory": HEADER_BYTES + segments + list_size(geometry, len(PLAIN))
    }  # fmt: skip
    assert costs.decrypted_bytes == len(PLAIN)
    assert costs.seconds.keys() == {"read", "check", "decrypt"}
    assert all(seconds > 0 for seconds in costs.seconds.values())


def test_a_range_costs_its_own_segments() -> None:
    store, meter = MemoryStore(), Meter()
    source = metered(store, meter)
    read(source, 0, 1)
    once = meter.costs()
    read(source, 1, 1)  # in the same segment: read again, and nothing else
    twice = meter.costs()
    assert twice.read_bytes["memory"] - once.read_bytes["memory"] == SEGMENT
    assert twice.decrypted_bytes == 2 * once.decrypted_bytes == 2 * (SEGMENT - OVERHEAD)


def test_what_fails_costs_time_and_no_plaintext() -> None:
    store, meter = MemoryStore(), Meter()
    source = metered(store, meter, b"x")
    name = next(iter(store.objects))
    store.objects[name] = store.objects[name][:-1] + b"\0"
    with pytest.raises(IntegrityError):
        read(source)
    assert meter.costs().decrypted_bytes == 0
    lost = Metered(MemoryStore(), "memory", meter)
    before = meter.costs()
    with pytest.raises(NotFound):
        lost.read_into(name, 0, memoryview(bytearray(8)))
    after = meter.costs()
    assert after.read_bytes == before.read_bytes
    assert after.seconds["read"] > before.seconds["read"]


def test_a_whole_has_what_all_its_parts_have() -> None:
    whole = Meter()
    parts = [Meter(whole) for _ in range(4)]

    def work(meter: Meter) -> None:
        for _ in range(500):
            meter.read("a", 2)
            meter.add({"read": 1_000}, 1)

    threads = [threading.Thread(target=work, args=(each,)) for each in parts * 2]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for meter, times in ((whole, 8), (parts[0], 2)):
        costs = meter.costs()
        assert (costs.read_bytes, costs.decrypted_bytes) == ({"a": times * 1000}, times * 500)
        assert costs.seconds == {"read": pytest.approx(times * 500e-6)}


def test_a_forked_child_waits_for_no_thread_of_its_parent() -> None:
    """It has none of them: whatever lock one held at the fork is held for ever."""
    script = """
import os, threading
from modelvault.artifact.meter import Meter
meter = Meter()
held, over = threading.Event(), threading.Event()
def hold():
    with meter._lock:
        held.set()
        over.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if child == 0:
    meter.read("folder", 1)
    os._exit(7)
status = os.waitpid(child, 0)[1]
over.set()
thread.join()
assert os.waitstatus_to_exitcode(status) == 7
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=30, check=False)
    assert done.returncode == 0
