"""Root keys: files, passphrases, the system's keyring."""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path

import keyring
import keyring.backend
import keyring.backends.fail
import keyring.errors
import pytest

from modelvault.adapters.keys_local import KeyFile, OsKeyring, Passphrase, RootSource
from modelvault.adapters.keys_local import root as roots
from modelvault.adapters.keys_local.document import Argon2, FileRoot, OsRoot, PassphraseRoot, Root
from modelvault.errors import (
    AuthenticationError,
    Conflict,
    InvalidRequest,
    ModelVaultError,
    Unavailable,
)

CHEAP = Argon2(iterations=1, memory_kib=64, lanes=1)


def code_of(family: type[ModelVaultError], source: RootSource, root: Root) -> str:
    with pytest.raises(family) as caught:
        source.open(root)
    assert caught.value.hint
    return caught.value.code


class TestKeyFile:
    def test_what_is_made_opens(self, tmp_path: Path) -> None:
        source = KeyFile(tmp_path / "a" / "b" / "root.key")
        made, root = source.create()
        assert root == FileRoot()
        assert source.open(root) == made
        assert source.path.read_bytes() == bytes(made.reveal())
        assert (source.path.stat().st_mode & 0o777) == 0o600

    def test_nothing_is_overwritten(self, tmp_path: Path) -> None:
        source = KeyFile(tmp_path / "root.key")
        source.path.write_bytes(b"precious")
        with pytest.raises(Conflict) as caught:
            source.create()
        assert caught.value.code == "root_key_exists"
        assert source.path.read_bytes() == b"precious"

    @pytest.mark.parametrize("call", ["fsync", "write", "fchmod"])
    def test_a_disk_that_refuses_leaves_no_half_key(
        self, tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "full")

        source = KeyFile(tmp_path / "root.key")
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(Unavailable) as caught:
                source.create()
        assert caught.value.code == "root_key_unavailable"
        assert not source.path.exists()

    def test_a_short_write(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "write", lambda _descriptor, data: len(data) - 1)
        with pytest.raises(Unavailable):
            KeyFile(tmp_path / "root.key").create()
        assert not (tmp_path / "root.key").exists()

    @pytest.mark.parametrize("size", [0, 31, 33, 4096])
    def test_another_length(self, tmp_path: Path, size: int) -> None:
        path = tmp_path / "root.key"
        path.write_bytes(bytes(size))
        path.chmod(0o600)
        assert code_of(AuthenticationError, KeyFile(path), FileRoot()) == "wrong_root_key"

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o777])
    def test_others_may_read_it(self, tmp_path: Path, mode: int) -> None:
        source = KeyFile(tmp_path / "root.key")
        source.create()
        source.path.chmod(mode)
        assert code_of(InvalidRequest, source, FileRoot()) == "root_key_exposed"

    @pytest.mark.parametrize("mode", [0o400, 0o600, 0o700])
    def test_modes_that_are_private(self, tmp_path: Path, mode: int) -> None:
        source = KeyFile(tmp_path / "root.key")
        source.create()
        source.path.chmod(mode)
        assert len(source.open(FileRoot())) == 32

    def test_missing(self, tmp_path: Path) -> None:
        source = KeyFile(tmp_path / "root.key")
        assert code_of(Unavailable, source, FileRoot()) == "root_key_unavailable"

    def test_a_fifo_doesnt_hang_us(self, tmp_path: Path) -> None:
        path = tmp_path / "root.key"
        os.mkfifo(path, 0o600)
        assert code_of(AuthenticationError, KeyFile(path), FileRoot()) == "wrong_root_key"

    def test_a_folder(self, tmp_path: Path) -> None:
        path = tmp_path / "root.key"
        path.mkdir(mode=0o700)
        assert code_of(AuthenticationError, KeyFile(path), FileRoot()) == "wrong_root_key"


class TestPassphrase:
    def test_known_answer(self) -> None:
        """As the reference implementation has it (argon2-cffi, hash_secret_raw)."""
        root = PassphraseRoot(b"saltsaltsaltsalt", CHEAP)
        expected = "59bf4338b29483094be5f8da77db5f08f534481028d0f118fdebc9461c2d511d"
        assert bytes(Passphrase.of("password").open(root).reveal()).hex() == expected

    def test_the_defaults_are_rfc_9106s_second_choice(self) -> None:
        key, root = Passphrase.of("x").create()
        assert isinstance(root, PassphraseRoot)
        assert (root.cost.iterations, root.cost.memory_kib, root.cost.lanes) == (3, 65536, 4)
        assert len(root.salt) == 16
        assert Passphrase.of("x").open(root) == key

    def test_each_keyring_has_its_own_salt(self) -> None:
        made = [Passphrase.of("x", CHEAP).create() for _ in range(4)]
        assert len({root.salt for _, root in made}) == 4
        assert len({bytes(key.reveal()) for key, _ in made}) == 4

    def test_the_keyrings_cost_wins(self) -> None:
        key, root = Passphrase.of("x", CHEAP).create()
        assert Passphrase.of("x", Argon2()).open(root) == key

    def test_one_text_in_two_forms_is_one_passphrase(self) -> None:
        key, root = Passphrase.of("caf\u00e9", CHEAP).create()
        assert Passphrase.of("cafe\u0301").open(root) == key

    @pytest.mark.parametrize("text", ["", "\ud800"])
    def test_no_passphrase(self, text: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            Passphrase.of(text)
        assert caught.value.code == "bad_passphrase"

    def test_the_repr_shows_nothing(self) -> None:
        source = Passphrase.of("correct horse")
        assert "horse" not in f"{source!r} {source} {source!s}"

    def test_too_little_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Hungry:
            def __init__(self, **_: object) -> None:
                raise MemoryError

        _, root = Passphrase.of("x", CHEAP).create()
        monkeypatch.setattr(roots, "Argon2id", Hungry)
        assert code_of(Unavailable, Passphrase.of("x"), root) == "insufficient_memory"


class Entries(keyring.backend.KeyringBackend):
    """A keyring in a dict."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password


class Locked(Entries):
    def get_password(self, service: str, username: str) -> str | None:
        raise keyring.errors.KeyringLocked("it says things that must not be passed on")


class ReadOnly(Entries):
    def set_password(self, service: str, username: str, password: str) -> None:
        raise keyring.errors.PasswordSetError("no")


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> Entries:
    return use(monkeypatch, Entries())


def use(monkeypatch: pytest.MonkeyPatch, backend: keyring.backend.KeyringBackend) -> Entries:
    monkeypatch.setattr(keyring.core, "_keyring_backend", backend)
    return backend


class TestOsKeyring:
    def test_what_is_made_opens(self, entries: Entries) -> None:
        made, root = OsKeyring("modelvault:x").create()
        assert root == OsRoot()
        assert OsKeyring("modelvault:x").open(root) == made
        assert entries.entries == {
            ("modelvault:x", "root-key"): base64.b64encode(made.reveal()).decode()
        }

    def test_nothing_is_overwritten(self, entries: Entries) -> None:
        OsKeyring("modelvault:x").create()
        with pytest.raises(Conflict) as caught:
            OsKeyring("modelvault:x").create()
        assert caught.value.code == "root_key_exists"

    def test_no_entry(self, entries: Entries) -> None:
        assert code_of(Unavailable, OsKeyring("x"), OsRoot()) == "root_key_unavailable"

    @pytest.mark.parametrize("text", ["", "AAAA", "not base64!", "é", "A" * 100])
    def test_a_strange_entry(self, entries: Entries, text: str) -> None:
        entries.entries["x", "root-key"] = text
        assert code_of(AuthenticationError, OsKeyring("x"), OsRoot()) == "wrong_root_key"

    @pytest.mark.parametrize("backend", [Locked, keyring.backends.fail.Keyring])
    def test_no_answer(self, monkeypatch: pytest.MonkeyPatch, backend: type) -> None:
        use(monkeypatch, backend())
        with pytest.raises(Unavailable) as caught:
            OsKeyring("x").open(OsRoot())
        assert caught.value.code == "no_os_keyring"
        assert "must not" not in str(caught.value)
        assert caught.value.__suppress_context__

    def test_a_keyring_that_takes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        use(monkeypatch, ReadOnly())
        with pytest.raises(Unavailable) as caught:
            OsKeyring("x").create()
        assert caught.value.code == "no_os_keyring"

    def test_without_the_package_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "keyring", None)
        with pytest.raises(Unavailable) as caught:
            OsKeyring("x").create()
        assert caught.value.code == "no_os_keyring"
        assert "encrypted-model-vault[keyring]" in caught.value.hint


def test_each_source_opens_its_own_kind_only(tmp_path: Path) -> None:
    sources: dict[type, RootSource] = {
        FileRoot: KeyFile(tmp_path / "root.key"),
        PassphraseRoot: Passphrase.of("x"),
        OsRoot: OsKeyring("x"),
    }
    for kind, source in sources.items():
        for root in (FileRoot(), PassphraseRoot(bytes(16), CHEAP), OsRoot()):
            if not isinstance(root, kind):
                assert code_of(InvalidRequest, source, root) == "wrong_root_source"
