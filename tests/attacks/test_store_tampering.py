"""An attacker who owns the store: each region of each object, through the public Session.

Whatever is done to the bytes, a load says IntegrityError, names the file and gives no byte; put
back, it loads again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelvault import connect, wiring
from modelvault.client.session import Session
from modelvault.crypto.floe import HEADER_BYTES
from modelvault.errors import IntegrityError
from modelvault.manifest import FileEntry, Manifest
from support.homes import isolated

SEGMENT = 4096
FILES = {"a.dat": bytes(range(256)) * 40, "b.dat": bytes(range(255, -1, -1)) * 40, "c.dat": b""}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patched:
        yield isolated(tmp_path_factory.mktemp("tampering"), patched)


@pytest.fixture(scope="module")
def vault(home: Path) -> Iterator[Session]:
    """Models `m` and `n`, two versions of `m`; files of three segments."""
    place = home.parent
    wiring.init(segment_length=SEGMENT)
    (place / "model").mkdir()
    for name, data in FILES.items():
        (place / "model" / name).write_bytes(data)
    with connect() as session:
        session.create("m")
        session.create("n")
        for reference in ("m", "m", "n"):
            session.push(place / "model", reference, upload_all=True)
        yield session


@pytest.fixture
def store(vault: Session, home: Path, tmp_path: Path) -> Iterator[Path]:
    """The home; what a test does to its objects is undone."""
    shutil.copytree(home / "objects", tmp_path / "objects")
    yield home
    shutil.rmtree(home / "objects")
    shutil.copytree(tmp_path / "objects", home / "objects")


def manifest(vault: Session, reference: str) -> Manifest:
    signed = vault.show(reference).signed
    assert signed is not None
    return Manifest.from_bytes(signed.manifest.payload)


def entry(vault: Session, reference: str, path: str) -> FileEntry:
    found = manifest(vault, reference).file(path)
    assert found is not None
    return found


def load(vault: Session, reference: str, path: str) -> bytes:
    with vault.load(reference, purpose="inference") as model, model.open(path) as file:
        return file.read()


def flip(offset: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[offset] ^= 1
        path.write_bytes(data)

    return change


def cut(count: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[:-count])


def add(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes() + data)


def swap_segments(path: Path) -> None:
    data = path.read_bytes()
    head, rest = data[:HEADER_BYTES], data[HEADER_BYTES:]
    path.write_bytes(head + rest[SEGMENT : 2 * SEGMENT] + rest[:SEGMENT] + rest[2 * SEGMENT :])


def repeat_segment(path: Path) -> None:
    data = path.read_bytes()
    first = data[HEADER_BYTES : HEADER_BYTES + SEGMENT]
    path.write_bytes(data[:HEADER_BYTES] + first + first + data[HEADER_BYTES + 2 * SEGMENT :])


def drop_segment(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:HEADER_BYTES] + data[HEADER_BYTES + SEGMENT :])


def same_size_plaintext(path: Path) -> None:
    size = path.stat().st_size
    path.write_bytes((FILES["a.dat"] * 2)[:size])


MIDDLE, FINAL = HEADER_BYTES + SEGMENT, HEADER_BYTES + 2 * SEGMENT
CIPHERTEXT: dict[str, tuple[Callable[[Path], object], str]] = {
    "header params": (flip(3), "altered"),
    "header IV": (flip(20), "altered"),
    "header tag": (flip(60), "altered"),
    "first length field": (flip(HEADER_BYTES), "altered"),
    "first IV": (flip(HEADER_BYTES + 4), "altered"),
    "first ciphertext": (flip(HEADER_BYTES + 100), "altered"),
    "first tag": (flip(MIDDLE - 1), "altered"),
    "middle ciphertext": (flip(MIDDLE + 2000), "altered"),
    "final length field": (flip(FINAL + 3), "altered"),
    "final IV": (flip(FINAL + 8), "altered"),
    "final ciphertext": (flip(FINAL + 30), "altered"),
    "final tag": (flip(-1), "altered"),
    "truncated by a byte": (cut(1), "wrong_size"),
    "truncated by a segment": (cut(SEGMENT), "wrong_size"),
    "extended by a byte": (add(b"\0"), "wrong_size"),
    "extended by a segment": (add(bytes(SEGMENT)), "wrong_size"),
    "segments exchanged": (swap_segments, "altered"),
    "a segment twice": (repeat_segment, "altered"),
    "a segment less": (drop_segment, "wrong_size"),
    "plaintext in its place": (lambda path: path.write_bytes(FILES["a.dat"]), "wrong_size"),
    "plaintext of the same size": (same_size_plaintext, "altered"),
    "empty": (lambda path: path.write_bytes(b""), "wrong_size"),
    "gone": (lambda path: path.unlink(), "missing_object"),
}
LEAVES: dict[str, tuple[Callable[[Path], object], str]] = {
    "leaf of the header": (flip(0), "bad_leaf_list"),
    "leaf of a segment": (flip(40), "bad_leaf_list"),
    "last leaf": (flip(-1), "bad_leaf_list"),
    "a leaf less": (cut(32), "wrong_size"),
    "a leaf more": (add(bytes(32)), "wrong_size"),
    "gone": (lambda path: path.unlink(), "missing_object"),
}


def refused(vault: Session, reference: str, path: str, code: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        load(vault, reference, path)
    assert caught.value.code == code
    assert path in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("case", CIPHERTEXT)
def test_ciphertext(vault: Session, store: Path, case: str) -> None:
    change, code = CIPHERTEXT[case]
    change(store / entry(vault, "m@1", "a.dat").object)
    refused(vault, "m@1", "a.dat", code)
    assert load(vault, "m@1", "b.dat") == FILES["b.dat"]  # other files of it are not touched


@pytest.mark.parametrize("case", LEAVES)
def test_leaf_list(vault: Session, store: Path, case: str) -> None:
    change, code = LEAVES[case]
    change(store / entry(vault, "m@1", "a.dat").leaves)
    refused(vault, "m@1", "a.dat", code)


@pytest.mark.parametrize("region", range(HEADER_BYTES + 32))
def test_each_byte_of_an_empty_files_object(vault: Session, store: Path, region: int) -> None:
    flip(region)(store / entry(vault, "m@1", "c.dat").object)
    refused(vault, "m@1", "c.dat", "altered")


EXCHANGED = {
    "another file of the version": ("m@1", "b.dat"),
    "the same file of another version": ("m@2", "a.dat"),
    "the same file of another model": ("n@1", "a.dat"),
}


@pytest.mark.parametrize("both", [False, True], ids=["object", "object and leaf list"])
@pytest.mark.parametrize("case", EXCHANGED)
def test_exchanged_objects(vault: Session, store: Path, case: str, both: bool) -> None:
    mine, other = entry(vault, "m@1", "a.dat"), entry(vault, *EXCHANGED[case])
    assert mine.size == other.size  # or sizes alone would tell
    shutil.copyfile(store / other.object, store / mine.object)
    if both:
        shutil.copyfile(store / other.leaves, store / mine.leaves)
    refused(vault, "m@1", "a.dat", "bad_leaf_list" if both else "altered")


def test_undone_it_loads_again(vault: Session, store: Path) -> None:
    place = store / entry(vault, "m@1", "a.dat").object
    before = place.read_bytes()
    flip(200)(place)
    refused(vault, "m@1", "a.dat", "altered")
    place.write_bytes(before)
    assert load(vault, "m@1", "a.dat") == FILES["a.dat"]


def test_no_byte_of_it_comes_out(vault: Session, store: Path, tmp_path: Path) -> None:
    """The altered segment is the last: what was decrypted before it isn't given out either."""
    flip(-1)(store / entry(vault, "m@1", "a.dat").object)
    with vault.load("m@1", purpose="inference") as model:
        with pytest.raises(IntegrityError):
            model.read_bytes("a.dat")
        with pytest.raises(IntegrityError):
            model.path("a.dat")
    with pytest.raises(IntegrityError):
        vault.pull("m@1", tmp_path / "pulled")
    with pytest.raises(IntegrityError):
        vault.export("m@1", tmp_path / "exported", purpose="export")
    left = [path.name for path in tmp_path.iterdir() if path.name != "objects"]
    assert left == []
