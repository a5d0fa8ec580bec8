"""Guarded pages: what the kernel is told about them, and what a forked child finds."""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from modelvault.crypto import pages, secret
from modelvault.crypto.pages import Pages
from modelvault.crypto.secret import Secret
from modelvault.errors import Unavailable
from support.maps import flags, mapping, swapped

KEY = b"sixteen of these" * 2
pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.skipif(sys.platform != "linux", reason="the kernel is told on Linux"),
]


def forked(use: Callable[[], bool]) -> int:
    """How a child that says `use()` ended: 0 for yes, 1 for no, -11 for a segmentation fault."""
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        code = 2
        try:
            code = 0 if use() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_pages_are_neither_dumped_nor_forked_nor_swapped() -> None:
    held = pages.reserve(Pages, 1 << 16)
    held[:5] = b"weigh"
    told = flags(held.start)
    assert {"dd", "dc"} <= told
    assert ("lo" in told) == held.locked
    assert mapping(held.start)["Swap"] == "0 kB"
    assert swapped() == 0 or not held.locked


def test_keys_are_in_such_pages_whatever_their_size() -> None:
    for size in (1, 32, 64, 65, 5000):
        key = Secret.copy_of(bytes(range(256)) * 20)
        key = Secret.filled(size, lambda out: out.__setitem__(slice(None), b"k" * len(out)))
        assert bytes(key.reveal()) == b"k" * size
        assert {"dd", "dc"} <= flags(key._pages.start)
        assert len(key) == size


def test_in_a_child_the_addresses_are_kept_and_cant_be_read() -> None:
    held = pages.reserve(Pages, 1 << 20)
    held[:4] = b"here"

    def place_is_kept() -> bool:
        return held.absent and mapping(held.start)["permissions"] == "---p"

    def nothing_else_comes_there() -> bool:
        new = [pages.reserve(Pages, 1 << 20) for _ in range(50)]
        return all(one.start != held.start for one in new)

    assert forked(place_is_kept) == 0
    assert forked(nothing_else_comes_there) == 0
    assert forked(lambda: held[:4] == b"here") == -signal.SIGSEGV
    assert held[:4] == b"here"
    assert not held.absent


HOOK_OF_ANOTHER = """
import os
kept = []
allocate = lambda: kept.extend([object() for _ in range(9)] for _ in range(200_000))
os.register_at_fork(after_in_child=allocate)
from modelvault.crypto import pages
held = [pages.reserve(pages.Pages, 1 << 20) for _ in range(8)]
child = os.fork()
if child == 0:
    kept.clear()
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_what_hooks_of_others_allocate_in_a_child_stays() -> None:
    """They run before ours, where they were registered before."""
    ran = subprocess.run(
        [sys.executable, "-c", HOOK_OF_ANOTHER], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "0\n"


def test_a_child_that_lets_go_of_them_hits_nothing() -> None:
    kept = [pages.reserve(Pages, 1 << 20)]

    def let_go() -> bool:
        kept.clear()
        gc.collect()
        return True

    assert forked(let_go) == 0
    assert len(kept) == 1


def test_a_child_has_no_keys() -> None:
    key = Secret.copy_of(KEY)

    def says_so() -> bool:
        try:
            key.reveal()
        except Unavailable as refused:
            own = Secret.copy_of(KEY)
            key.wipe()
            return refused.code == "forked" and own.reveal() == KEY and key.wiped
        return False

    assert forked(says_so) == 0
    assert key.reveal() == KEY


def test_inherited_gives_copies_to_whoever_is_forked_within() -> None:
    held, key = pages.reserve(Pages, 1 << 16), Secret.copy_of(KEY)
    held[:4] = b"here"

    def reads_and_writes_its_own() -> bool:
        seen = held[:4] == b"here" and key.reveal() == KEY
        held[:4] = b"mine"
        key.wipe()
        return seen

    with pages.inherited(), pages.inherited():
        made_within = pages.reserve(Pages, 1 << 16)
        assert forked(reads_and_writes_its_own) == 0
        assert not {"dc"} & (flags(held.start) | flags(made_within.start))
    assert held[:4] == b"here"
    assert key.reveal() == KEY
    assert "dc" in flags(held.start)
    assert "dc" in flags(made_within.start)
    assert forked(lambda: made_within.absent) == 0


def test_a_forgotten_key_is_wiped_with_its_last_view() -> None:
    key = Secret.copy_of(KEY)
    view = key.reveal()
    place = ctypes.addressof(key._buffer)  # type: ignore[arg-type]
    del key
    gc.collect()
    assert view == KEY
    assert ctypes.string_at(place, 32) == KEY
    del view
    assert ctypes.string_at(place, 32) == bytes(32)


def test_a_place_isnt_given_to_another_key_under_a_view() -> None:
    key = Secret.copy_of(KEY)
    view = key.reveal()
    key.wipe()
    del key
    others = [Secret.copy_of(b"\xff" * 64) for _ in range(3000)]
    assert view == bytes(32)
    assert len(others) == 3000


def test_a_fill_that_fails_leaves_nothing() -> None:
    places = []

    def fail(out: memoryview) -> None:
        out[:] = KEY
        places.append(ctypes.addressof(ctypes.c_char.from_buffer(out)))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Secret.filled(32, fail)
    assert ctypes.string_at(places[0], 32) == bytes(32)


LOCKING = """
import ctypes, os, resource, sys
from modelvault.crypto import pages, secret
from modelvault.crypto.secret import Secret
from modelvault.loader.memory import Region
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)  # root may lock as much as it likes
resource.setrlimit(resource.RLIMIT_MEMLOCK, (int(sys.argv[1]), int(sys.argv[1])))
region = Region(1 << 20)
with region.writable(0, 7) as out:
    out[:] = b"weights"
key = Secret.copy_of(b"k" * 32)
print(region._memory.locked, key._pages.locked, bytes(region.view(0, 7)), bytes(key.reveal()[:1]))
"""


@pytest.mark.parametrize(
    ("limit", "locked"), [(0, "False False"), (1 << 19, "False True"), (2 << 20, "True True")]
)
def test_keys_are_locked_first_and_weights_whole_or_not(limit: int, locked: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOCKING, str(limit)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == f"{locked} b'weights' b'k'", done.stderr


def test_a_kernel_that_knows_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_libc", None)
    for name in ("MADV_HUGEPAGE", "MADV_DONTDUMP", "MADV_DONTFORK"):
        monkeypatch.delattr(pages.mmap, name)
    held = pages.reserve(Pages, 4096)
    held[:1] = b"x"
    assert not held.locked


EXIT = """
import atexit, ctypes, sys
places = []
# Registered first, so it runs last.
atexit.register(lambda: print([ctypes.string_at(place, 4) for place in places], flush=True))
import weakref
from modelvault.crypto.secret import Secret
from modelvault.loader.memory import Region
region = Region(5 << 20)
with region.writable(3 << 20, (3 << 20) + 4) as out:
    out[:] = b"here"
view = region.view(3 << 20, 4 << 20)
key = Secret.copy_of(b"here" * 8)
shown = key.reveal()
places += [region._memory.start + (3 << 20), ctypes.addressof(key._buffer)]
class Closing: pass
closing = Closing()
weakref.finalize(closing, lambda: print(bytes(key.reveal()[:4]), flush=True))
{end}
"""


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise KeyError", "raise KeyboardInterrupt"])
def test_all_is_wiped_when_the_interpreter_ends(end: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXIT.replace("{end}", end)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["b'here'", str([bytes(4), bytes(4)])]
    assert "Exception ignored" not in done.stderr


def test_room_for_keys_is_there_before_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = pages.reserve
    monkeypatch.setattr(secret, "_free", type(secret._free)())
    monkeypatch.setattr(
        pages, "reserve", lambda kind, size: made.append(kind.__name__) or real(kind, size)
    )
    from modelvault.loader.memory import Region

    Region(10).close()
    assert made == ["Pages", "_Memory"]
    assert resource.getrlimit(resource.RLIMIT_MEMLOCK)
