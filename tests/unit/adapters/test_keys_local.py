"""What only the local keyring has: a file, and a root key."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from cryptography.exceptions import InvalidTag

from modelvault import canonical
from modelvault.adapters.keys_local import KeyFile, LocalKeyring, Passphrase
from modelvault.adapters.keys_local.document import Argon2, Kek, KekVersion, Keyring
from modelvault.adapters.keys_local.sealing import Seals, seal, unseal
from modelvault.crypto.secret import Secret
from modelvault.errors import (
    AuthenticationError,
    Conflict,
    IntegrityError,
    InvalidRequest,
    ModelVaultError,
    NotFound,
    Unavailable,
)
from modelvault.ports.keys import WrappedKey

CHEAP = Argon2(iterations=1, memory_kib=64, lanes=1)
CONTEXT = bytes(range(32))
KEK, OTHER = "mv-one", "mv-two"


@pytest.fixture
def source(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "elsewhere" / "root.key")


@pytest.fixture
def path(tmp_path: Path, source: KeyFile) -> Path:
    """A keyring with two KEKs, the first with two versions."""
    path = tmp_path / "home" / "keyring.json"
    path.parent.mkdir()
    LocalKeyring.make(path, source)
    with LocalKeyring(path, source) as keyring:
        keyring.create(KEK)
        keyring.create(OTHER)
        keyring.rotate(KEK)
    return path


def refused(family: type[ModelVaultError], code: str, call: Callable[[], object]) -> None:
    with pytest.raises(family) as caught:
        call()
    assert caught.value.code == code
    assert caught.value.hint


def edit(path: Path, change: Callable[[dict], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_bytes(canonical.dumps(document))


class TestFile:
    @pytest.mark.parametrize("umask", [0, 0o077, 0o777])
    def test_modes_whatever_the_umask(self, tmp_path: Path, umask: int) -> None:
        source = KeyFile(tmp_path / "root.key")
        path = tmp_path / "keyring.json"
        before = os.umask(umask)
        try:
            LocalKeyring.make(path, source)
            with LocalKeyring(path, source) as keyring:
                keyring.create(KEK)
        finally:
            os.umask(before)
        for file in (path, source.path):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600

    def test_nothing_is_left_beside_it(self, path: Path) -> None:
        assert {entry.name for entry in path.parent.iterdir()} == {
            "keyring.json",
            "keyring.json.lock",
        }

    def test_it_is_canonical_json_without_a_key(self, path: Path, source: KeyFile) -> None:
        data = path.read_bytes()
        assert canonical.dumps(canonical.loads(data, len(data))) == data
        parsed = canonical.convert(json.loads(data), Keyring, what="it")
        root = source.open(parsed.root)
        with LocalKeyring(path, source) as keyring:
            seals = Seals(root)
            entry = parsed.keks[KEK].versions[0]
            secrets = [root, seals.open_kek(KEK, 1, entry.sealed)]
            for purpose, keys in parsed.signing.items():
                place = purpose, 1, keys[0].public_key
                secrets.append(seals.open_signing(*place, keys[0].sealed))
            shown = repr(keyring) + str(vars(keyring)) + repr(source) + repr(parsed)
            for secret in secrets:
                raw = bytes(secret.reveal())
                assert raw not in data
                assert base64.b64encode(raw).rstrip(b"=") not in data
                assert raw.hex() not in shown
                assert repr(raw)[2:-1] not in shown

    def test_made_once(self, path: Path, source: KeyFile) -> None:
        before = path.read_bytes()
        refused(Conflict, "keyring_exists", lambda: LocalKeyring.make(path, source))
        assert path.read_bytes() == before

    @pytest.mark.parametrize("name", ["", "Name", "../up", "a" * 65, "a\n", "a b"])
    def test_names_of_keks(self, path: Path, source: KeyFile, name: str) -> None:
        with LocalKeyring(path, source) as keyring:
            refused(InvalidRequest, "bad_key_name", lambda: keyring.create(name))
            refused(NotFound, "no_kek", lambda: keyring.data_key(name, CONTEXT))

    def test_missing(self, tmp_path: Path, source: KeyFile) -> None:
        absent = tmp_path / "keyring.json"
        refused(Unavailable, "keyring_unreadable", lambda: LocalKeyring(absent, source))

    def test_it_goes_away_while_open(self, path: Path, source: KeyFile) -> None:
        with LocalKeyring(path, source) as keyring:
            path.unlink()
            refused(Unavailable, "keyring_unreadable", lambda: keyring.versions(KEK))

    def test_a_folder_in_its_place(self, path: Path, source: KeyFile) -> None:
        path.unlink()
        path.mkdir()
        refused(Unavailable, "keyring_unreadable", lambda: LocalKeyring(path, source))

    @pytest.mark.parametrize("failing", ["fsync", "replace", "write"])
    def test_a_disk_that_refuses_changes_nothing(
        self, path: Path, source: KeyFile, failing: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = path.read_bytes()
        with LocalKeyring(path, source) as keyring:
            with monkeypatch.context() as patch:
                patch.setattr(os, failing, _full)
                refused(Unavailable, "keyring_unwritable", lambda: keyring.rotate(KEK))
            assert path.read_bytes() == before
            assert keyring.versions(KEK) == (1, 2)
            assert not list(path.parent.glob("*.draft"))
            assert keyring.rotate(KEK) == 3

    def test_a_lock_that_cant_be_made(self, path: Path, source: KeyFile) -> None:
        lock = path.with_name("keyring.json.lock")
        lock.unlink()
        lock.mkdir()
        with LocalKeyring(path, source) as keyring:
            refused(Unavailable, "keyring_unwritable", lambda: keyring.rotate(KEK))

    def test_what_a_killed_process_left_is_cleared(self, path: Path, source: KeyFile) -> None:
        left = path.with_name("keyring.json.0011.draft")
        left.write_bytes(b"half")
        with LocalKeyring(path, source) as keyring:
            keyring.rotate(KEK)
        assert not left.exists()


def _full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


class TestRootKey:
    def test_a_wrong_key_file_is_said_first(self, path: Path, source: KeyFile) -> None:
        source.path.write_bytes(os.urandom(32))
        refused(AuthenticationError, "wrong_root_key", lambda: LocalKeyring(path, source))

    def test_passphrases(self, tmp_path: Path) -> None:
        path = tmp_path / "keyring.json"
        LocalKeyring.make(path, Passphrase.of("correct horse", CHEAP))
        with LocalKeyring(path, Passphrase.of("correct horse")) as keyring:
            keyring.create(KEK)
        for wrong in ("correct horse ", "Correct horse", "x"):
            with pytest.raises(AuthenticationError) as caught:
                LocalKeyring(path, Passphrase.of(wrong))
            assert caught.value.code == "wrong_root_key"
            assert str(path) in caught.value.message
        assert json.loads(path.read_text())["root"] == {
            "type": "passphrase",
            "salt": json.loads(path.read_text())["root"]["salt"],
            "cost": {"iterations": 1, "memory_kib": 64, "lanes": 1},
        }

    def test_another_root_takes_our_place_while_open(self, path: Path, source: KeyFile) -> None:
        with LocalKeyring(path, source) as keyring:
            elsewhere = path.with_name("other.json")
            LocalKeyring.make(elsewhere, KeyFile(path.with_name("other.key")))
            elsewhere.replace(path)
            refused(AuthenticationError, "wrong_root_key", lambda: keyring.versions(KEK))

    def test_closed(self, path: Path, source: KeyFile) -> None:
        keyring = LocalKeyring(path, source)
        keyring.close()
        keyring.close()
        for call in (
            lambda: keyring.data_key(KEK, CONTEXT),
            lambda: keyring.sign("log", b""),
            lambda: keyring.rotate(KEK),
        ):
            refused(InvalidRequest, "wiped", call)


def swap_versions(document: dict) -> None:
    first, second = document["keks"][KEK]["versions"]
    first["sealed"], second["sealed"] = second["sealed"], first["sealed"]


def swap_keks(document: dict) -> None:
    keks = document["keks"]
    keks[KEK]["versions"][0], keks[OTHER]["versions"][0] = (
        keks[OTHER]["versions"][0],
        keks[KEK]["versions"][0],
    )


def swap_purposes(document: dict) -> None:
    signing = document["signing"]
    signing["log"], signing["manifest"] = signing["manifest"], signing["log"]


def put_in_a_public_key(document: dict) -> None:
    document["signing"]["token"][0]["public_key"] = base64.b64encode(bytes(32)).decode()


def drop_a_version(document: dict) -> None:
    document["keks"][KEK]["versions"].pop()


def drop_a_kek(document: dict) -> None:
    del document["keks"][OTHER]


def flip_a_bit(document: dict) -> None:
    sealed = bytearray(base64.b64decode(document["keks"][KEK]["versions"][1]["sealed"]))
    sealed[20] ^= 1
    document["keks"][KEK]["versions"][1]["sealed"] = base64.b64encode(sealed).decode()


def drop_the_tag(document: dict) -> None:
    document["tag"] = ""


def check_as_tag(document: dict) -> None:
    document["tag"] = document["check"]


EDITS = [
    swap_versions,
    swap_keks,
    swap_purposes,
    put_in_a_public_key,
    drop_a_version,
    drop_a_kek,
    flip_a_bit,
    drop_the_tag,
    check_as_tag,
]


class TestAltered:
    @pytest.mark.parametrize("change", EDITS, ids=lambda change: change.__name__)
    def test_another_hands_edits_are_seen(
        self, path: Path, source: KeyFile, change: Callable[[dict], None]
    ) -> None:
        edit(path, change)
        refused(IntegrityError, "keyring_altered", lambda: LocalKeyring(path, source))

    def test_also_while_open(self, path: Path, source: KeyFile) -> None:
        with LocalKeyring(path, source) as keyring:
            edited = path.with_name("edited")
            edited.write_bytes(path.read_bytes())
            edit(edited, swap_keks)
            edited.replace(path)
            refused(IntegrityError, "keyring_altered", lambda: keyring.versions(KEK))

    @pytest.mark.parametrize("keep", [0, 1, 100, -1])
    def test_truncated(self, path: Path, source: KeyFile, keep: int) -> None:
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(IntegrityError) as caught:
            LocalKeyring(path, source)
        assert caught.value.code == "bad_keyring"
        assert str(path) in caught.value.message
        assert "backup" in caught.value.hint

    @pytest.mark.parametrize(
        "root",
        [
            {"type": "passphrase", "salt": "AAAA", "cost": {}},
            {"type": "passphrase", "salt": base64.b64encode(bytes(16)).decode()},
            {"type": "passphrase", "salt": 7, "cost": {}},
            {"type": "hsm"},
            {},
            *(
                {
                    "type": "passphrase",
                    "salt": base64.b64encode(bytes(16)).decode(),
                    "cost": {"iterations": 3, "memory_kib": 65536, "lanes": 4} | cost,
                }
                for cost in (
                    {"memory_kib": 100 << 20},
                    {"memory_kib": (1 << 20) + 1},
                    {"memory_kib": -1},
                    {"memory_kib": 16, "lanes": 4},
                    {"iterations": 17},
                    {"iterations": 2**31},
                    {"iterations": 0},
                    {"lanes": 17},
                    {"lanes": 0},
                    {"lanes": "4"},
                    {"secret": "x"},
                )
            ),
        ],
        ids=lambda root: str(root.get("cost", root)),
    )
    def test_hostile_root_parameters_cost_nothing(self, path: Path, root: dict) -> None:
        edit(path, lambda document: document.update(root=root))
        passphrase = Passphrase.of("x")
        refused(IntegrityError, "bad_keyring", lambda: LocalKeyring(path, passphrase))

    @pytest.mark.parametrize(
        "versions",
        [[], [1, 1], [2, 1], [1, 3], [0, 1]],
        ids=str,
    )
    def test_versions_are_consecutive(self, path: Path, versions: list[int]) -> None:
        sealed = base64.b64encode(bytes(60)).decode()
        entries = [{"version": version, "sealed": sealed} for version in versions]
        edit(path, lambda document: document["keks"][KEK].update(versions=entries))
        refused(
            IntegrityError, "bad_keyring", lambda: LocalKeyring(path, Passphrase.of("x", CHEAP))
        )

    def test_each_purpose_has_a_key(self, path: Path, source: KeyFile) -> None:
        edit(path, lambda document: document["signing"].pop("log"))
        refused(IntegrityError, "bad_keyring", lambda: LocalKeyring(path, source))


class TestSealing:
    """Each entry is bound to its place, also for somebody who could make the tag."""

    @pytest.fixture
    def seals(self) -> Seals:
        return Seals(Secret.random(32))

    @pytest.mark.parametrize(("name", "version"), [(OTHER, 1), (KEK, 2), ("mv-on", 1)])
    def test_keks(self, seals: Seals, name: str, version: int) -> None:
        sealed = seals.seal_kek(KEK, 1, Secret(bytearray(b"k" * 32)))
        assert seals.open_kek(KEK, 1, sealed) == Secret(bytearray(b"k" * 32))
        refused(IntegrityError, "keyring_altered", lambda: seals.open_kek(name, version, sealed))

    @pytest.mark.parametrize(
        ("purpose", "version", "public"),
        [("record", 1, b"p" * 32), ("log", 2, b"p" * 32), ("log", 1, b"q" * 32)],
    )
    def test_signing_keys(self, seals: Seals, purpose: str, version: int, public: bytes) -> None:
        sealed = seals.seal_signing("log", 1, b"p" * 32, Secret(bytearray(b"k" * 32)))
        assert seals.open_signing("log", 1, b"p" * 32, sealed) == Secret(bytearray(b"k" * 32))
        refused(
            IntegrityError,
            "keyring_altered",
            lambda: seals.open_signing(purpose, version, public, sealed),
        )

    def test_a_kek_isnt_a_signing_key(self, seals: Seals) -> None:
        sealed = seals.seal_kek("log", 1, Secret(bytearray(32)))
        with pytest.raises(IntegrityError):
            seals.open_signing("log", 1, b"", sealed)

    @pytest.mark.parametrize("size", [0, 1, 12, 27])
    def test_too_short_to_be_sealed(self, size: int) -> None:
        with pytest.raises(InvalidTag):
            unseal(Secret.random(32), bytes(size), b"")

    def test_the_same_key_is_sealed_differently_each_time(self) -> None:
        key, plain = Secret.random(32), Secret.random(32)
        assert len({seal(key, plain, b"") for _ in range(16)}) == 16


class TestKeys:
    def test_a_context_is_32_bytes(self, path: Path, source: KeyFile) -> None:
        with LocalKeyring(path, source) as keyring:
            for context in (b"", bytes(31), bytes(33)):
                refused(InvalidRequest, "bad_context", lambda c=context: keyring.data_key(KEK, c))

    def test_what_isnt_32_bytes_isnt_a_data_key(
        self, path: Path, source: KeyFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with LocalKeyring(path, source) as keyring:
            with monkeypatch.context() as patch:
                patch.setattr("modelvault.adapters.keys_local.keyring.KEY_BYTES", 31)
                _, wrapped = keyring.data_key(KEK, CONTEXT)
            refused(
                IntegrityError, "bad_wrapped_key", lambda: keyring.unwrap(KEK, wrapped, CONTEXT)
            )

    def test_over_two_hundred_at_once(self, path: Path, source: KeyFile) -> None:
        with LocalKeyring(path, source) as keyring:
            _, wrapped = keyring.data_key(KEK, CONTEXT)
            batch = [(wrapped, CONTEXT)] * 201
            refused(InvalidRequest, "batch_too_large", lambda: keyring.rewrap(KEK, batch))

    def test_the_newest_version_cant_be_retired(self, path: Path, source: KeyFile) -> None:
        with LocalKeyring(path, source) as keyring:
            refused(InvalidRequest, "bad_version", lambda: keyring.retire(KEK, 3))

    def test_retired_key_bytes_leave_the_file(self, path: Path, source: KeyFile) -> None:
        old = json.loads(path.read_text())["keks"][KEK]["versions"][0]["sealed"]
        with LocalKeyring(path, source) as keyring:
            keyring.retire(KEK, 2)
        assert old not in path.read_text()
        with LocalKeyring(path, source) as keyring:
            gone = WrappedKey(bytes(60), 1)
            refused(Conflict, "kek_version_retired", lambda: keyring.unwrap(KEK, gone, CONTEXT))

    def test_what_changes_nothing_writes_nothing(self, path: Path, source: KeyFile) -> None:
        with LocalKeyring(path, source) as keyring:
            before = path.stat().st_ino
            keyring.retire(KEK, 1)
            assert path.stat().st_ino == before

    def test_signing_keys_rotate(self, path: Path, source: KeyFile) -> None:
        with LocalKeyring(path, source) as keyring:
            old = keyring.public_key("record")
            new = keyring.rotate_signing("record")
            assert keyring.public_keys("record") == (old, new)
            assert keyring.public_key("record") == new
            assert keyring.public_keys("log") == (keyring.public_key("log"),)
        with LocalKeyring(path, source) as keyring:
            assert keyring.sign("record", b"m").keyid.startswith("sha256:")

    def test_frozen_values(self) -> None:
        kek = Kek((KekVersion(3, b"a" * 60), KekVersion(4, b"b" * 60)))
        assert (kek.floor, kek.newest) == (3, 4)
        with pytest.raises(ValueError, match="consecutive"):
            Kek((KekVersion(1, b""), KekVersion(3, b"")))
        with pytest.raises(ValueError, match="8 KiB"):
            Argon2(memory_kib=8, lanes=2)
        with pytest.raises(AttributeError):
            kek.versions = ()
        assert msgspec.structs.asdict(Argon2()) == {
            "iterations": 3,
            "memory_kib": 65536,
            "lanes": 4,
        }


ROTATE = """
import sys
from pathlib import Path
from modelvault.adapters.keys_local import KeyFile, LocalKeyring
keyring = LocalKeyring(Path(sys.argv[1]), KeyFile(Path(sys.argv[2])))
print("open", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[3])):
    keyring.rotate("mv-one")
    print("rotated", flush=True)
"""


def rotating(path: Path, source: KeyFile, times: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ROTATE, str(path), str(source.path), str(times)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


class TestProcesses:
    def test_two_that_rotate_at_once_lose_nothing(self, path: Path, source: KeyFile) -> None:
        with LocalKeyring(path, source) as keyring:
            workers = [rotating(path, source, 20) for _ in range(2)]
            for worker in workers:
                assert worker.stdout.readline() == "open\n"
            for worker in workers:
                worker.stdin.write("\n")
                worker.stdin.flush()
            mine = [keyring.rotate(KEK) for _ in range(20)]
            for worker in workers:
                worker.communicate()
                assert worker.returncode == 0
            assert keyring.versions(KEK) == (1, 62)
            assert len(set(mine)) == 20

    @pytest.mark.parametrize("rotations", [1, 3, 6])
    def test_killed_while_writing(self, path: Path, source: KeyFile, rotations: int) -> None:
        worker = rotating(path, source, 100_000)
        assert worker.stdout.readline() == "open\n"
        worker.stdin.write("\n")
        worker.stdin.flush()
        for _ in range(rotations):
            assert worker.stdout.readline() == "rotated\n"
        worker.kill()
        told = rotations + worker.communicate()[0].count("rotated\n")
        with LocalKeyring(path, source) as keyring:
            newest = keyring.versions(KEK)[1]
            assert newest in (2 + told, 3 + told)  # the last may have been done, but not told
            assert keyring.rotate(KEK) == newest + 1

    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    @pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
    def test_killed_at_each_step(self, path: Path, source: KeyFile, call: str) -> None:
        """The file is the old one or the new one, and the next process goes on."""
        child = os.fork()
        if child == 0:
            try:
                with LocalKeyring(path, source) as keyring:
                    setattr(os, call, lambda *_, **__: os.kill(os.getpid(), 9))
                    keyring.rotate(KEK)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
        with LocalKeyring(path, source) as keyring:
            assert keyring.versions(KEK) == (1, 2)
            assert keyring.rotate(KEK) == 3

    def test_a_change_of_another_process_is_seen_at_once(self, path: Path, source: KeyFile) -> None:
        with LocalKeyring(path, source) as mine, LocalKeyring(path, source) as theirs:
            for newest in (3, 4, 5):
                assert theirs.rotate(KEK) == newest
                assert mine.versions(KEK) == (1, newest)

    def test_readers_and_a_writer_in_threads(self, path: Path, source: KeyFile) -> None:
        with LocalKeyring(path, source) as keyring:
            dek, wrapped = keyring.data_key(KEK, CONTEXT)
            stop = threading.Event()
            wrong: list[object] = []

            def read() -> None:
                while not stop.is_set():
                    try:
                        if keyring.unwrap(KEK, wrapped, CONTEXT) != dek:
                            wrong.append("another key")
                    except ModelVaultError as error:
                        wrong.append(error)

            readers = [threading.Thread(target=read) for _ in range(3)]
            for reader in readers:
                reader.start()
            for _ in range(20):
                keyring.rotate(KEK)
            stop.set()
            for reader in readers:
                reader.join()
            assert wrong == []
