"""The seam for memory from elsewhere: files move into it, and edits ask for whole grains."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from modelvault.access import Obligations
from modelvault.crypto.floe import Geometry
from modelvault.errors import AccessDenied, Conflict, IntegrityError
from modelvault.loader.memory import Region
from modelvault.manifest import FileEntry
from support.loading import BROKEN, SEGMENT, Sealed, Version

DATA = b"weights and more of them" * 650
PATH = "a.dat"
UNSCREENED = Obligations(allow_pickle=True)  # so that nothing is read before it is asked for


class Elsewhere(Region):
    """Memory that remembers what was filled into it, and is edited by whole grains."""

    grain = 4096

    def __init__(self, size: int, holder: object = None) -> None:
        super().__init__(size, holder)
        self.filled: list[tuple[int, int]] = []

    def fill(self, begin: int, end: int, read: Callable[[memoryview], None]) -> None:
        self.filled.append((begin, end))
        super().fill(begin, end, read)


def elsewhere(entry: FileEntry, holder: object) -> Elsewhere:
    return Elsewhere(entry.size, holder)


def test_a_file_moves_with_what_is_decrypted() -> None:
    version = Sealed({PATH: DATA})
    model = version.model(obligations=UNSCREENED)
    resident = model.lend(PATH)
    payload = Geometry(SEGMENT).payload
    early = resident.view(2 * payload, 4 * payload)
    read = resident.missing
    moved = resident.move(elsewhere)
    assert isinstance(moved, Elsewhere)
    assert moved.filled == [(2 * payload, 4 * payload)]
    assert resident.missing == read
    assert bytes(early) == DATA[2 * payload : 4 * payload]
    assert resident.move(elsewhere) is moved
    assert bytes(model.read_bytes(PATH)) == DATA == bytes(moved.view(0, len(DATA)))
    del early
    model.close()
    assert not moved.alive


@pytest.mark.parametrize("start", [0, 5, 3 * SEGMENT])
def test_what_is_decrypted_is_not_read_again_to_be_written_out(start: int) -> None:
    version = Version({PATH: DATA})
    with version.model(obligations=UNSCREENED) as model:
        resident = model.lend(PATH)
        payload = Geometry(SEGMENT).payload
        resident.need(2 * payload, 4 * payload)
        reads = version.readers[PATH].reads
        reads.clear()
        out = bytearray(len(DATA) - start)
        resident.fill(memoryview(out), start)
        assert out == DATA[start:]
        after = (4 * payload, len(DATA) - 4 * payload)
        assert reads == ([(start, 2 * payload - start), after] if start < payload else [after])


def test_a_moved_file_that_was_let_go_comes_back_in_the_same_kind_of_memory() -> None:
    with Version({PATH: DATA}).model(obligations=UNSCREENED) as model:
        resident = model.lend(PATH)
        first = resident.move(elsewhere)
        resident.load()
        assert resident.release()
        assert not first.alive
        assert bytes(model.read_bytes(PATH)) == DATA
        assert isinstance(resident.move(elsewhere), Elsewhere)
        assert resident.move(elsewhere) is not first


def test_an_empty_file_moves() -> None:
    with Sealed({PATH: b""}).model() as model:
        assert bytes(model.read_bytes(PATH)) == b""
        model.lend(PATH).move(elsewhere)
        assert bytes(model.read_bytes(PATH)) == b""


def test_what_is_edited_has_its_grains_filled() -> None:
    version = Sealed({PATH: DATA})
    with version.model(obligations=UNSCREENED) as model:
        resident = model.lend(PATH)
        moved = resident.move(elsewhere)
        assert isinstance(moved, Elsewhere)
        with resident.shared(5000, 5010) as part:
            assert bytes(part) == DATA[5000:5010]
        ((begin, end),) = moved.filled
        assert begin <= 4096
        assert end >= 8192
        with resident.shared(len(DATA) - 1, len(DATA)) as part:
            assert bytes(part) == DATA[-1:]


def test_no_access_no_move() -> None:
    version = Version({PATH: DATA})
    model = version.model(obligations=UNSCREENED)
    resident = model.lend(PATH)
    version.lease.revoked = True
    for use in (lambda: resident.move(elsewhere), lambda: resident.shared(0, 1), model.check):
        with pytest.raises(AccessDenied):
            use()
    version.lease.revoked = False
    model.close()
    with pytest.raises(Conflict, match="closed"):
        model.check()


def test_memory_that_could_not_be_filled_is_wiped_and_asked_for_again() -> None:
    version = Version({PATH: DATA})
    with version.model(obligations=UNSCREENED) as model:
        resident = model.lend(PATH)
        moved = resident.move(elsewhere)
        version.readers[PATH].error = BROKEN
        with pytest.raises(IntegrityError):
            resident.load()
        assert bytes(moved.view(0, len(DATA))) == bytes(len(DATA))
        version.readers[PATH].error = None
        resident.load()
        assert bytes(moved.view(0, len(DATA))) == DATA
