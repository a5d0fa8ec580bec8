"""journal: what a push that was cut off leaves for the next one."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from modelvault.client.comparing import candidates
from modelvault.client.journal import Journal, open_journal
from modelvault.client.scan import Found, scan
from modelvault.reference import Reference
from modelvault.upload import DraftFile, Upload

VAULT = "ab" * 16
REFERENCE = Reference("default", "m")
UPLOAD = Upload(
    id="cd" * 16, tenant="default", model="m", artifact="ef" * 16, segment_length=64,
    digest_alg="blake3", expires_at="2026-01-01T00:00:00.000Z", sealed=b"sealed keys",
)  # fmt: skip
HEADER = b"h" * 74


@pytest.fixture
def files(tmp_path: Path) -> tuple[Found, ...]:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_bytes(os.urandom(1000))
    return scan(folder).files


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "state" / "uploads"


def opened(place: Path, files: tuple[Found, ...]) -> Journal:
    journal = open_journal(place, VAULT, REFERENCE, files)
    assert journal is not None
    return journal


def begun(place: Path, files: tuple[Found, ...]) -> list[bytes]:
    """A push that was cut off: file a has 3 of its pieces, b is whole."""
    journal = opened(place, files)
    journal.start(UPLOAD)
    trail = journal.fresh(files[0])
    trail.begin(HEADER)
    trail.begun("transfer-1")
    leaves = [bytes([number]) * 32 for number in range(4)]
    for number, leaf in enumerate(leaves):
        trail.leaf(number, leaf, leaf[::-1])
    trail.sent(0, 2)
    trail.sent(2, 3)
    journal.fresh(files[1]).finished(drafted(files[1]), "json", ())
    journal.close()
    return leaves


def drafted(found: Found) -> DraftFile:
    return DraftFile(
        path=found.path, size=found.size, object="objects/" + "0" * 32,
        leaves="objects/" + "1" * 32, digest="blake3:" + "0" * 64, content=b"t" * 32,
    )  # fmt: skip


def touched(found: Found) -> Found:
    return msgspec.structs.replace(found, changed_ns=found.changed_ns + 1)


def test_what_was_sent_is_known_again(place: Path, files: tuple[Found, ...]) -> None:
    leaves = begun(place, files)
    journal = opened(place, files)
    assert journal.upload == UPLOAD.id
    trail = journal.trail(files[0])
    assert (trail.header, trail.transfer) == (HEADER, "transfer-1")
    assert trail.leaves == dict(enumerate(leaves[:3]))
    assert trail.contents == {at: leaf[::-1] for at, leaf in enumerate(leaves[:3])}
    assert [trail.has(piece) for piece in range(4)] == [True, True, True, False]
    done = journal.finished(files[1])
    assert done is not None
    assert (done.file, done.format) == (drafted(files[1]), "json")
    assert journal.finished(files[0]) is None


def test_a_file_that_somebody_touched_begins_anew(place: Path, files: tuple[Found, ...]) -> None:
    begun(place, files)
    journal = opened(place, files)
    first = journal.trail(files[0])
    changed = journal.trail(touched(files[0]))
    assert (changed.header, changed.transfer, changed.leaves) == (None, None, {})
    assert changed.seeds != first.seeds
    assert journal.finished(touched(files[1])) is None


def test_it_holds_no_secret_and_is_its_owners_alone(place: Path, files: tuple[Found, ...]) -> None:
    begun(place, files)
    (path,) = place.iterdir()
    assert (path.stat().st_mode & 0o777, place.stat().st_mode & 0o777) == (0o600, 0o700)
    assert b"sealed" not in path.read_bytes()


@pytest.mark.parametrize("cut", range(1, 400, 7))
def test_torn_at_any_byte_it_is_shorter_and_no_error(
    place: Path, files: tuple[Found, ...], cut: int
) -> None:
    begun(place, files)
    (path,) = place.iterdir()
    path.write_bytes(path.read_bytes()[:-cut])
    journal = opened(place, files)
    trail = journal.trail(files[0])
    assert set(trail.leaves) <= {0, 1, 2}
    trail.sent(0, 0)  # what follows is read again
    journal.close()
    again = opened(place, files)
    assert again.upload == journal.upload
    assert again.trail(files[0]).leaves == trail.leaves


@pytest.mark.parametrize("content", [b"\0" * 100, b"{}\n", b'{"type":"other"}\n', b"[1]\n{}\n"])
def test_nonsense_is_an_empty_journal(
    place: Path, files: tuple[Found, ...], content: bytes
) -> None:
    begun(place, files)
    (path,) = place.iterdir()
    path.write_bytes(content)
    assert opened(place, files).upload is None


def test_two_pushes_of_the_same_dont_share_one(place: Path, files: tuple[Found, ...]) -> None:
    first = opened(place, files)
    assert open_journal(place, VAULT, REFERENCE, files) is None
    first.close()
    first.close()
    opened(place, files).remove()
    assert list(place.iterdir()) == []


def test_other_pushes_have_others(place: Path, files: tuple[Found, ...]) -> None:
    opened(place, files)
    assert open_journal(place, VAULT, Reference("default", "n"), files) is not None
    assert open_journal(place, "00" * 16, REFERENCE, files) is not None
    assert open_journal(place, VAULT, REFERENCE, files[:1]) is not None


def test_where_there_can_be_none(tmp_path: Path, files: tuple[Found, ...]) -> None:
    assert open_journal(None, VAULT, REFERENCE, files) is None
    (tmp_path / "file").write_text("")
    assert open_journal(tmp_path / "file" / "below", VAULT, REFERENCE, files) is None
    place = tmp_path / "links"
    place.mkdir()
    journal = opened(place, files)
    journal.close()
    (path,) = place.iterdir()
    path.unlink()
    path.symlink_to(tmp_path / "file")
    assert open_journal(place, VAULT, REFERENCE, files) is None


def test_a_tag_is_known_again_as_long_as_nobody_touches_the_file(
    place: Path, files: tuple[Found, ...]
) -> None:
    journal = opened(place, files)
    journal.start(UPLOAD)
    journal.tag(files[0], b"t" * 32)
    journal.close()
    again = opened(place, files)
    assert again.tagged(files[0]) == b"t" * 32
    assert again.tagged(files[1]) is None
    assert again.tagged(touched(files[0])) is None
    assert not again.begun(files[0])
    again.tag(touched(files[0]), b"u" * 32)
    again.fresh(files[1]).begin(HEADER)
    again.close()
    last = opened(place, files)
    assert last.tagged(files[0]) is None
    assert last.tagged(touched(files[0])) == b"u" * 32
    assert last.begun(files[1])
    last.start(UPLOAD)
    assert last.tagged(touched(files[0])) is None
    assert not last.begun(files[1])


def test_what_was_begun_is_not_compared_again(place: Path, files: tuple[Found, ...]) -> None:
    upload = msgspec.structs.replace(UPLOAD, candidates=tuple(found.path for found in files))
    assert candidates(upload, files, None) == files
    assert candidates(UPLOAD, files, None) == ()
    begun(place, files)
    journal = opened(place, files)
    assert candidates(upload, files, journal) == ()
