from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from modelvault import settings, wiring
from modelvault.adapters.ledger_sql import SqlLedger
from modelvault.client.pins import read_trust
from modelvault.errors import (
    AuthenticationError,
    Conflict,
    IntegrityError,
    InvalidRequest,
    ModelVaultError,
    NotFound,
    Unavailable,
)
from modelvault.settings import Settings
from modelvault.wiring import embedded, making, roots
from modelvault.wiring.home import Home, RootKind
from support.homes import isolated


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return isolated(tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def _cheap_argon2(monkeypatch: pytest.MonkeyPatch) -> None:
    from modelvault.adapters.keys_local import Passphrase
    from modelvault.adapters.keys_local.document import Argon2

    real = Passphrase.of.__func__  # type: ignore[attr-defined]
    cheap = Argon2(iterations=1, memory_kib=64, lanes=1)
    monkeypatch.setattr(Passphrase, "of", classmethod(lambda cls, text: real(cls, text, cheap)))


def tree(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*")
    }


def test_a_home_is_private_whole_and_has_its_root_key_outside(home: Path, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        made = wiring.init(user="me")
    finally:
        os.umask(old)
    assert (made.home, made.root.kind) == (home, "file")
    key = Path(made.root.path or "")
    assert key == tmp_path / "config" / "modelvault" / f"{made.vault}.key"
    assert (key.stat().st_mode & 0o777, key.stat().st_size) == (0o600, 32)
    assert home.stat().st_mode & 0o777 == 0o700
    assert all(
        mode == (0o700 if (home / name).is_dir() else 0o600) for name, mode in tree(home).items()
    )
    assert {"vault.json", "keyring.json", "ledger.db", "objects", "policy", "trust.json"} <= set(
        tree(home)
    )
    assert {path.name for path in tmp_path.iterdir()} == {"home", "config"}  # no draft is left
    text = (home / "vault.json").read_text()
    assert key.read_bytes().hex() not in text
    assert json.loads(text)["identity"] == {"groups": ["admins"], "sub": "me"}


def test_what_a_new_vault_says_of_itself(home: Path) -> None:
    made = wiring.init(user="me", digest_alg="sha256", segment_length=4096)
    described = Home(home).read()
    assert (described.vault, described.digest_alg) == (made.vault, "sha256")
    assert described.segment_length == 4096
    trust = read_trust(home / "trust.json", made.vault)
    assert {key.purpose for key in trust.keys} == {"manifest", "record", "log", "bundle"}
    ledger = SqlLedger(Home(home).ledger_url, lambda: 0)
    assert ledger.policy_revision() == made.policy_revision
    (entry,) = ledger.entries()
    assert (entry.action, entry.actor, entry.revision) == (
        "init",
        "local:me",
        made.policy_revision,
    )
    ledger.close()
    assert wiring.policy_bundle().revision == made.policy_revision
    assert wiring.policy_folder().revisions() == (made.policy_revision,)


@pytest.mark.parametrize(
    "what", ["vault", "file", "folder with a file", "dangling link", "link to an empty folder"]
)
def test_what_is_there_is_left_alone(home: Path, what: str) -> None:
    if what == "vault":
        wiring.init()
    elif what == "file":
        home.write_text("mine")
    elif what == "folder with a file":
        home.mkdir()
        (home / "notes").touch()
    elif what == "dangling link":
        home.symlink_to("nowhere")
    else:
        (home.parent / "empty").mkdir()
        home.symlink_to("empty")
    before = sorted(home.parent.rglob("*"))
    with pytest.raises(Conflict) as caught:
        wiring.init()
    assert caught.value.code == "home_exists"
    assert sorted(home.parent.rglob("*")) == before


def test_an_empty_folder_becomes_a_private_vault(home: Path) -> None:
    home.mkdir()
    home.chmod(0o755)
    made = wiring.init()
    assert Home(home).read().vault == made.vault
    assert home.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_was_empty_a_moment_ago_is_left_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir()
    real = making._begin_ledger

    def overtaken(*args: object) -> None:
        real(*args)  # type: ignore[arg-type]
        (home / "theirs").touch()

    monkeypatch.setattr(making, "_begin_ledger", overtaken)
    with pytest.raises(Conflict) as caught:
        wiring.init()
    assert caught.value.code == "home_exists"
    assert [path.name for path in home.iterdir()] == ["theirs"]


def test_a_mounted_disk_is_told_apart(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_args: object) -> None:
        raise OSError(16, "Device or resource busy")

    home.mkdir()
    monkeypatch.setattr(Path, "rename", busy)
    with pytest.raises(Conflict, match="mounted") as caught:
        wiring.init()
    assert str(home / "vault") in caught.value.hint


def failing(*_args: object) -> str:
    raise OSError(28, "No space left on device")


def test_a_failure_leaves_neither_home_nor_key(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "_begin_ledger", failing)
    with pytest.raises(Unavailable, match="No space") as caught:
        wiring.init()
    assert caught.value.code == "cant_write"
    assert list(tmp_path.rglob("*")) == [tmp_path / "config", tmp_path / "config" / "modelvault"]


def test_ctrl_c_leaves_neither_home_nor_key(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(making, "_begin_ledger", interrupted)
    with pytest.raises(KeyboardInterrupt):
        wiring.init(root="passphrase", ask=lambda _prompt: "secret")
    assert not home.exists()
    assert not list(tmp_path.rglob(".home*"))


def test_somebody_elses_init_in_the_same_moment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = making._begin_ledger

    def overtaken(*args: object) -> None:
        real(*args)  # type: ignore[arg-type]
        home.mkdir()
        (home / "theirs").touch()

    monkeypatch.setattr(making, "_begin_ledger", overtaken)
    with pytest.raises(Conflict) as caught:
        wiring.init()
    assert caught.value.code == "home_exists"
    assert [path.name for path in home.iterdir()] == ["theirs"]


def test_a_parent_that_is_no_folder(home: Path) -> None:
    home.parent.joinpath("file").touch()
    with pytest.raises(Unavailable) as caught:
        wiring.init(home.parent / "file" / "home")
    assert caught.value.code == "cant_write"


def test_a_place_that_cannot_be_looked_at(home: Path) -> None:
    with pytest.raises(Unavailable, match="File name too long") as caught:
        wiring.init(home.parent / ("x" * 300))
    assert caught.value.code == "cant_write"


@pytest.mark.parametrize(
    "options", [{"segment_length": 10}, {"user": "x" * 500}, {"digest_alg": "md5"}]
)
def test_a_home_that_could_not_be_opened_is_not_made(
    home: Path, options: dict[str, object]
) -> None:
    with pytest.raises(InvalidRequest):
        wiring.init(**options)  # type: ignore[arg-type]
    assert not home.exists()


def parts(home: Path, **more: object) -> embedded.Parts:
    from modelvault import settings

    return embedded.open_parts(Home(home), settings.read(os.environ, **more), None)


@pytest.mark.parametrize("how", ["variable", "file", "asked"])
def test_a_passphrase(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "variable":
        monkeypatch.setenv("MODELVAULT_PASSPHRASE", "open sesame")
    elif how == "file":
        (tmp_path / "phrase").write_text("open sesame\r\nsecond line\n")
        monkeypatch.setenv("MODELVAULT_PASSPHRASE_FILE", str(tmp_path / "phrase"))
    made = wiring.init(root="passphrase", ask=lambda _prompt: "open sesame")
    assert (made.root.kind, made.root.path) == ("passphrase", None)
    monkeypatch.delenv("MODELVAULT_PASSPHRASE_FILE", raising=False)
    monkeypatch.setenv("MODELVAULT_PASSPHRASE", "open sesame")
    parts(home).close()
    monkeypatch.setenv("MODELVAULT_PASSPHRASE", "wrong")
    with pytest.raises(AuthenticationError) as caught:
        parts(home)
    assert caught.value.code == "wrong_root_key"


def test_nobody_to_ask_for_the_passphrase(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wiring.init(root="passphrase", ask=lambda _prompt: "secret")
    with pytest.raises(InvalidRequest, match="nobody to ask") as caught:
        parts(home)
    assert caught.value.code == "no_passphrase"
    monkeypatch.setenv("MODELVAULT_PASSPHRASE_FILE", str(tmp_path / "none"))
    with pytest.raises(InvalidRequest, match="none: No such file"):
        parts(home)
    (tmp_path / "none").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidRequest, match="UTF-8"):
        parts(home)


def test_the_terminal_is_asked_only_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roots.sys.stdin, "isatty", lambda: False, raising=False)
    assert roots.terminal() is None
    monkeypatch.setattr(roots.sys.stdin, "isatty", lambda: True, raising=False)
    assert roots.terminal() is not None


def test_a_new_passphrase_is_typed_twice(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = iter(["open sesame", "open sesam", "open sesame", "open sesame"])
    monkeypatch.setattr(roots, "terminal", lambda: lambda _prompt: next(typed))
    with pytest.raises(InvalidRequest) as caught:
        wiring.init(root="passphrase")
    assert (caught.value.code, home.exists()) == ("passphrases_differ", False)
    assert not list(tmp_path.rglob(".home*"))
    wiring.init(root="passphrase")
    assert next(typed, None) is None  # both were asked for
    monkeypatch.setenv("MODELVAULT_PASSPHRASE", "open sesame")
    parts(home).close()


def test_nobody_is_asked_twice_either() -> None:
    assert roots.twice(None) is None


def test_the_root_key_has_to_be_there(home: Path) -> None:
    made = wiring.init()
    Path(made.root.path or "").unlink()
    with pytest.raises(Unavailable) as caught:
        parts(home)
    assert caught.value.code == "root_key_unavailable"


def test_no_home_says_how_to_make_one(home: Path) -> None:
    for use in (wiring.connect, wiring.policy_bundle, wiring.policy_engine):
        with pytest.raises(NotFound) as caught:
            use()
        assert (caught.value.code, "modelvault init" in caught.value.hint) == ("no_home", True)
    home.mkdir()
    (home / "vault.json").mkdir()
    with pytest.raises(NotFound):
        wiring.connect()


def test_a_broken_description_and_another_vaults_trust(home: Path, tmp_path: Path) -> None:
    wiring.init()
    other = wiring.init(tmp_path / "other")
    (home / "trust.json").write_bytes((other.home / "trust.json").read_bytes())
    with pytest.raises(IntegrityError) as caught:
        wiring.connect()
    assert caught.value.code == "other_vault"
    (home / "vault.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"vault\.json"):
        wiring.connect()
    text = (other.home / "vault.json").read_text().replace(str(other.root.path), "")
    (other.home / "vault.json").write_text(text.replace(',"path":""', ""))
    with pytest.raises(InvalidRequest, match="no key file"):
        wiring.connect(home=other.home)


@pytest.mark.parametrize(
    ("url", "family", "code"),
    [
        ("https://broker.example", NotFound, "no_trust_file"),
        ("http://broker.example", InvalidRequest, "bad_broker"),
        ("broker.example", InvalidRequest, "bad_broker"),
        ("https://user:pass@broker.example", InvalidRequest, "bad_broker"),
        ("https://:pass@broker.example", InvalidRequest, "bad_broker"),
        ("https://broker.example/v1?token=x", InvalidRequest, "bad_broker"),
    ],
)
def test_a_broker_that_cant_be_used(
    home: Path, url: str, family: type[ModelVaultError], code: str
) -> None:
    with pytest.raises(family) as caught:
        wiring.connect(url)
    assert caught.value.code == code
    assert "pass" not in caught.value.message
    assert "token=x" not in caught.value.message


def test_a_user_without_a_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import getpass

    def nameless() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr(getpass, "getuser", nameless)
    wiring.init()
    assert Home(home).read().identity.sub == f"uid-{os.getuid()}"


def test_the_working_copy_has_an_engine(home: Path) -> None:
    wiring.init()
    engine = wiring.policy_engine()
    assert engine.revision == wiring.policy_bundle().revision  # type: ignore[attr-defined]
    engine.close()  # type: ignore[attr-defined]


LIGHT = """
import sys, modelvault
from modelvault import connect, errors
heavy = {"sqlalchemy", "cryptography", "numpy", "regorus", "keyring", "jwt", "blake3", "msgspec"}
print(sorted(heavy & set(sys.modules)))
"""


def test_importing_the_front_is_light() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_names_of_the_front_are_attribute_errors() -> None:
    import modelvault

    assert modelvault.Session.__name__ == "Session"
    assert modelvault.Model.__name__ == "Model"
    with pytest.raises(AttributeError, match="nonsense"):
        _ = modelvault.nonsense


def test_an_embedded_vault_needs_no_cache(home: Path, tmp_path: Path) -> None:
    """Its objects lie here already."""
    wiring.init()
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a.dat").write_bytes(b"a" * 5000)
    with wiring.connect(cache=tmp_path / "cache") as session:
        session.create("m")
        session.push(folder, "m")
        with session.load("m", purpose="inference") as model:
            assert model.open("a.dat").read() == b"a" * 5000
            assert model.stats().costs.read_bytes.keys() == {"folder"}
    assert not (tmp_path / "cache").exists()


def foreseen(
    home: Path, root: RootKind = "file", told: Settings | None = None
) -> ModelVaultError | None:
    try:
        making.foresee(Home(home), root, told or settings.read(os.environ, home=home))
    except ModelVaultError as refused:
        return refused
    return None


def test_what_is_foreseen_is_what_init_meets(home: Path, tmp_path: Path) -> None:
    assert foreseen(home) is None
    assert foreseen(tmp_path / "new" / "folders" / "home") is None
    (tmp_path / "file").touch()
    (tmp_path / "full" / "notes").mkdir(parents=True)
    for taken, code in (("file/home", "cant_write"), ("full", "home_exists")):
        with pytest.raises(ModelVaultError) as met:
            wiring.init(tmp_path / taken)
        refused = foreseen(tmp_path / taken)
        assert refused is not None
        assert (refused.code, met.value.code) == (code, code)
    mounted = foreseen(Path("/proc"))
    assert mounted is not None
    assert mounted.code == "home_exists"
    assert not home.exists()
    told = replace(settings.read(os.environ), config_home=tmp_path / "file" / "modelvault")
    refused = foreseen(home, told=told)
    assert refused is not None
    assert refused.code == "root_key_unavailable"
    assert foreseen(home, "keyring", told) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed")
def test_a_folder_of_somebody_else_is_foreseen(home: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    told = settings.read(os.environ)
    os.seteuid(65534)
    try:
        refused = foreseen(tmp_path / "theirs" / "home", told=told)
    finally:
        os.seteuid(0)
    assert refused is not None
    assert (refused.code, "Permission denied" in refused.message) == ("cant_write", True)


def test_a_passphrase_that_nobody_gives_is_foreseen(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roots, "terminal", lambda: None)
    refused = foreseen(home, "passphrase")
    assert refused is not None
    assert refused.code == "no_passphrase"
    (tmp_path / "secret").write_text("five or six words\n")
    monkeypatch.setenv("MODELVAULT_PASSPHRASE_FILE", str(tmp_path / "secret"))
    assert foreseen(home, "passphrase") is None
    monkeypatch.delenv("MODELVAULT_PASSPHRASE_FILE")
    monkeypatch.setattr(roots, "terminal", lambda: pytest.fail)
    assert foreseen(home, "passphrase") is None  # there is somebody to ask
