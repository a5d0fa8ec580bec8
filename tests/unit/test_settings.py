from __future__ import annotations

from pathlib import Path

import pytest

from modelvault import settings
from modelvault.errors import InvalidRequest, NotFound


def env(tmp_path: Path, **more: str) -> dict[str, str]:
    return {"HOME": str(tmp_path), **more}


def config(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / ".config" / "modelvault" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_with_nothing_said(tmp_path: Path) -> None:
    found = settings.read(env(tmp_path), cpus=200)
    assert found == settings.Settings(
        home=tmp_path / ".modelvault",
        config_home=tmp_path / ".config/modelvault",
        state_home=tmp_path / ".local/state/modelvault",
        threads=64,
    )
    assert settings.read(env(tmp_path)).threads == 1


def test_arguments_win_over_environment_over_profile_over_file(tmp_path: Path) -> None:
    config(
        tmp_path,
        'home = "/file"\nthreads = 3\n[profiles.work]\nhome = "/work"\ntoken_file = "~/t"\n',
    )
    known = env(tmp_path)
    assert settings.read(known).home == Path("/file")
    work = settings.read(known, profile="work")
    assert (work.home, work.threads) == (Path("/work"), 3)
    assert work.token_file == tmp_path / "t"
    assert settings.read(known | {"MODELVAULT_PROFILE": "work"}).home == Path("/work")
    told = known | {"MODELVAULT_HOME": "/env", "MODELVAULT_THREADS": "5"}
    assert (settings.read(told, profile="work").home, settings.read(told).threads) == (
        Path("/env"),
        5,
    )
    assert settings.read(told, home=Path("/arg")).home == Path("/arg")


def test_a_broker_and_what_it_is_known_by(tmp_path: Path) -> None:
    config(
        tmp_path,
        'broker = "https://file"\nca = "~/ca.pem"\n[profiles.work]\nbroker = "https://work"\n'
        'trust = "/work/trust.json"\ncertificate = "c.pem"\nkey = "k.pem"\nstore_ca = "/s.pem"\n',
    )
    found = settings.read(env(tmp_path, MODELVAULT_CA="/env/ca.pem"), profile="work")
    assert found.broker == "https://work"
    assert (found.ca, found.store_ca) == (Path("/env/ca.pem"), Path("/s.pem"))
    assert found.trust == Path("/work/trust.json")
    assert (found.certificate, found.key) == (Path("c.pem"), Path("k.pem"))
    assert settings.read(env(tmp_path)).ca == tmp_path / "ca.pem"


def test_a_user_without_home_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container with an arbitrary user id."""

    def nameless() -> Path:
        raise RuntimeError("could not determine home directory")

    monkeypatch.setattr(Path, "home", nameless)
    found = settings.read({"MODELVAULT_BROKER": "https://b"})
    assert found.broker == "https://b"
    assert not found.home.exists()
    assert not found.config_home.exists()


def test_secrets_come_from_the_environment_and_stay_out_of_the_repr(tmp_path: Path) -> None:
    found = settings.read(
        env(tmp_path, MODELVAULT_TOKEN="tok3n", MODELVAULT_PASSPHRASE="p4ss"), token=None
    )
    assert (found.token, found.passphrase) == ("tok3n", "p4ss")
    assert "tok3n" not in repr(found)
    assert "p4ss" not in repr(found)
    assert settings.read(env(tmp_path, MODELVAULT_TOKEN="a"), token="b").token == "b"


def test_xdg_and_a_named_file(tmp_path: Path) -> None:
    named = tmp_path / "other.toml"
    named.write_text('passphrase_file = "/p"\n')
    found = settings.read(
        env(tmp_path, XDG_CONFIG_HOME=str(tmp_path / "xdg"), MODELVAULT_CONFIG=str(named))
    )
    assert found.config_home == tmp_path / "xdg" / "modelvault"
    assert found.passphrase_file == Path("/p")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hmoe = 1", "hmoe"),
        ("home = 1", "str"),
        ("[profiles.work]\ntoken = 'x'", "token"),
        ("home = ", "end of document"),
        (b"\xff", "utf-8"),
        (b"#" * ((1 << 20) + 1), "bytes"),
        ("threads = 65", "threads"),
        ("threads = 0", "threads"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(
    tmp_path: Path, text: str | bytes, says: str
) -> None:
    config(tmp_path, text)
    with pytest.raises(InvalidRequest, match=says) as caught:
        settings.read(env(tmp_path))
    assert caught.value.code == "bad_settings"


@pytest.mark.parametrize("text", ["0", "65", "-1", "two", ""])
def test_a_bad_number_of_threads_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"(?i)threads"):
        settings.read(env(tmp_path, MODELVAULT_THREADS=text))


def test_a_missing_named_file_and_a_missing_profile(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="doesn't exist"):
        settings.read(env(tmp_path, MODELVAULT_CONFIG=str(tmp_path / "none.toml")))
    config(tmp_path, "[profiles.a]\n[profiles.b]\n")
    with pytest.raises(NotFound) as caught:
        settings.read(env(tmp_path), profile="c")
    assert "a, b" in caught.value.hint


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / ".config/modelvault/config.toml").mkdir(parents=True)
    with pytest.raises(InvalidRequest, match="directory"):
        settings.read(env(tmp_path))


@pytest.mark.parametrize(
    ("told", "size"),
    [
        ("1048576", 1 << 20),
        ("500MiB", 500 << 20),
        ("80 GiB", 80 << 30),
        ("2TiB", 2 << 40),
        ("2048K", 2 << 20),
        ("7G", 7 << 30),
    ],
)
def test_a_cache_and_its_size(tmp_path: Path, told: str, size: int) -> None:
    assert settings.read(env(tmp_path)).cache is None
    found = settings.read(env(tmp_path, MODELVAULT_CACHE="~/c", MODELVAULT_CACHE_SIZE=told))
    assert (found.cache, found.cache_size) == (tmp_path / "c", size)
    config(tmp_path, f'cache = "/file"\ncache_size = "{told}"\n[profiles.work]\ncache = "/work"\n')
    assert settings.read(env(tmp_path)).cache_size == size
    assert settings.read(env(tmp_path), profile="work").cache == Path("/work")
    wanted = settings.read(env(tmp_path, MODELVAULT_CACHE="/env"), cache=Path("/arg"))
    assert wanted.cache == Path("/arg")


def test_a_size_as_a_number(tmp_path: Path) -> None:
    config(tmp_path, "cache_size = 3000000\n")
    assert settings.read(env(tmp_path)).cache_size == 3_000_000


@pytest.mark.parametrize(
    "told", ["0", "1000", "lots", "5 XB", "-1GiB", "1e9", "1.5GiB", "\u0665GiB"]
)
def test_what_is_no_size(tmp_path: Path, told: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        settings.read(env(tmp_path, MODELVAULT_CACHE_SIZE=told))
    assert caught.value.code == "bad_settings"
    assert "MiB" in caught.value.hint
