from __future__ import annotations

import multiprocessing
import os
import stat
import threading
from pathlib import Path

import pytest

from modelvault import canonical
from modelvault.artifact.trust import Seen
from modelvault.client import pins
from modelvault.client.pins import Pins, merge, read_trust, write_private
from modelvault.errors import IntegrityError, NotFound
from modelvault.record import TrustFile

VAULT = "0f" * 16
D1, D2 = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def seen(tags: int = 1, models: int = 1, digest: str = D1) -> Seen:
    return Seen({"default/m:prod": tags}, {"default/m": models}, {"default/m@1": digest})


def test_it_lasts_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "pins.json"
    Pins(path, VAULT).remember(seen(3, 2))
    assert Pins(path, VAULT).seen() == seen(3, 2)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(each.name for each in tmp_path.iterdir()) == ["pins.json", "pins.json.lock"]


def test_it_only_ever_rises(tmp_path: Path) -> None:
    path = tmp_path / "pins.json"
    memory = Pins(path, VAULT)
    memory.remember(seen(3, 2))
    memory.remember(seen(2, 5))
    assert memory.seen() == Pins(path, VAULT).seen() == seen(3, 5)


def test_two_processes_see_each_other(tmp_path: Path) -> None:
    one, other = (Pins(tmp_path / "pins.json", VAULT) for _ in range(2))
    one.remember(seen(3))
    other.remember(seen(7))
    assert one.seen() == seen(7)


def test_a_second_digest_for_a_version_is_a_rollback(tmp_path: Path) -> None:
    memory = Pins(tmp_path / "pins.json", VAULT)
    memory.remember(seen())
    with pytest.raises(IntegrityError) as caught:
        memory.remember(seen(digest=D2))
    assert caught.value.code == "rollback"
    assert Pins(tmp_path / "pins.json", VAULT).seen() == seen()


def test_merge_keeps_what_either_has() -> None:
    merged = merge(Seen({"a:x": 1}, {}, {"a@1": D1}), Seen({"b:x": 2}, {"b": 1}, {"a@2": D2}))
    assert merged == Seen({"a:x": 1, "b:x": 2}, {"b": 1}, {"a@1": D1, "a@2": D2})


def document(**changes: object) -> bytes:
    whole = {"schema": 1, "vault": VAULT, "tags": {}, "models": {}, "versions": {}}
    return canonical.dumps(whole | changes)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        document()[:-5],
        document(vault="aa" * 16),
        document(extra=1),
        document(tags={"default/m:prod": 0}),
        document(versions={"default/m@1": "md5:00"}),
        document(schema=2),
    ],
)
def test_a_broken_file_fails_closed_with_a_way_out(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "pins.json"
    path.write_bytes(data)
    for use in (Pins(path, VAULT).seen, lambda: Pins(path, VAULT).remember(seen())):
        with pytest.raises(IntegrityError) as caught:
            use()
        assert caught.value.code == "bad_pins"
        assert str(path) in caught.value.message
        assert "restore" in caught.value.hint
    assert path.read_bytes() == data


def test_a_file_that_cannot_be_read_fails_closed(tmp_path: Path) -> None:
    (tmp_path / "pins.json").mkdir()
    with pytest.raises(IntegrityError, match=r"pins\.json"):
        Pins(tmp_path / "pins.json", VAULT).seen()


def test_where_it_cannot_be_written_this_process_still_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read_only(*_args: object, **_kw: object) -> int:
        raise PermissionError(30, "Read-only file system")

    memory = Pins(tmp_path / "pins.json", VAULT)
    monkeypatch.setattr(pins.os, "open", read_only)
    memory.remember(seen(3))
    assert "can't write" in caplog.text
    assert "XDG_STATE_HOME" in caplog.text
    memory.remember(seen(4))
    assert len(caplog.records) == 1, "it is said once"
    assert memory.seen() == seen(4)
    assert not list(tmp_path.iterdir())


def test_without_a_file_it_lives_in_the_process() -> None:
    memory = Pins(None, VAULT)
    memory.remember(seen(3))
    assert memory.seen() == seen(3)


def test_what_is_known_already_is_not_written_again(tmp_path: Path) -> None:
    memory = Pins(tmp_path / "pins.json", VAULT)
    memory.remember(seen(3))
    before = (tmp_path / "pins.json").stat().st_ino
    memory.remember(seen(3))
    assert (tmp_path / "pins.json").stat().st_ino == before


def _raise_to(path: Path, numbers: list[int]) -> None:
    for number in numbers:
        Pins(path, VAULT).remember(Seen({f"m:{number % 5}": number}, {}, {}))


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "pins.json"
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_raise_to, args=(path, list(range(first, 41, 2))))
        for first in (1, 2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    assert Pins(path, VAULT).seen().tags == {f"m:{n % 5}": n for n in range(36, 41)}


def test_threads_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    memory = Pins(tmp_path / "pins.json", VAULT)
    threads = [
        threading.Thread(target=memory.remember, args=(Seen({f"m:{n}": n}, {}, {}),))
        for n in range(1, 9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Pins(tmp_path / "pins.json", VAULT).seen().tags == {f"m:{n}": n for n in range(1, 9)}


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_private(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_private(path, b"new")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def trust_file(path: Path, vault: str = VAULT) -> Path:
    path.write_bytes(canonical.encode(TrustFile(vault=vault, keys=(), serial=1)))
    return path


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "pins.json"
    (tmp_path / ".pins.json.0123456789abcdef").write_text("half")
    (tmp_path / ".other.json.0123456789abcdef").write_text("not ours")
    Pins(path, VAULT).remember(seen())
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        ".other.json.0123456789abcdef",
        "pins.json",
        "pins.json.lock",
    ]


def test_the_trust_file_is_read_strictly(tmp_path: Path) -> None:
    path = trust_file(tmp_path / "trust.json")
    assert read_trust(path, VAULT) == read_trust(path) == TrustFile(vault=VAULT, keys=(), serial=1)
    with pytest.raises(IntegrityError) as caught:
        read_trust(path, "aa" * 16)
    assert caught.value.code == "other_vault"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError) as caught:
        read_trust(path, VAULT)
    assert str(path) in caught.value.message


def test_no_trust_file_is_not_found_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        read_trust(tmp_path / "trust.json")
    assert (caught.value.code, "trust export" in caught.value.hint) == ("no_trust_file", True)
