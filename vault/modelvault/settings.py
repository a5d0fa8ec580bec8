"""What this process was told: by its environment and by one optional file.

The file is TOML (`$XDG_CONFIG_HOME/modelvault/config.toml`, or MODELVAULT_CONFIG): values at the
top hold for all, `[profiles.NAME]` for the profile of that name; the environment wins over both.
Names that nobody reads are refused: a mistyped setting must not pass for one that is in force.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NoReturn

import msgspec

from modelvault.errors import InvalidRequest, NotFound

MAX_FILE = 1 << 20
MAX_THREADS = 64
CACHE_SIZE = 50 << 30
_LEAST_CACHE = 1 << 20
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_SIZE = re.compile(r"([0-9]{1,15}) ?([KMGT]?)(?:iB)?", re.ASCII)


class Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where `modelvault login` goes: an OpenID provider, as a client of it that has no secret.

    `issuer` is the provider's exact address, `ca` a PEM file to verify it with. Of its tokens the
    `shows` one is shown to brokers. `resource` names the broker to providers that make access
    tokens for one (RFC 8707).
    """

    issuer: str
    client_id: str
    scopes: tuple[str, ...] = ("openid", "offline_access")
    shows: Literal["id_token", "access_token"] = "id_token"
    resource: str | None = None
    ca: str | None = None


class FileSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file may say, for all or for one profile."""

    home: str | None = None
    broker: str | None = None
    ca: str | None = None
    store_ca: str | None = None
    trust: str | None = None
    certificate: str | None = None
    key: str | None = None
    token_file: str | None = None
    token_variable: str | None = None
    token_command: tuple[str, ...] | None = None
    login: Login | None = None
    passphrase_file: str | None = None
    threads: int | None = None
    cache: str | None = None
    cache_size: int | str | None = None


class _File(FileSettings, frozen=True, forbid_unknown_fields=True):
    profiles: dict[str, FileSettings] = {}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings in force. The repr shows neither token nor passphrase; no pickle either.

    `broker` is the address of one to talk to instead of a home; `ca` and `store_ca` are the PEM
    files that it and the object store are verified with, `trust` is the vault's trust file. Where
    neither token nor token file is given, `token_variable` names an environment variable with a
    token, `token_command` is a helper that prints one, and `login` says where people log in.
    `cache` is a folder for ciphertext of a broker's store, of at most `cache_size` bytes.
    """

    home: Path
    config_home: Path
    state_home: Path
    broker: str | None = None
    ca: Path | None = None
    store_ca: Path | None = None
    trust: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token: str | None = None
    token_file: Path | None = None
    token_variable: str | None = None
    token_command: tuple[str, ...] | None = None
    login: Login | None = None
    passphrase: str | None = None
    passphrase_file: Path | None = None
    threads: int = 1
    cache: Path | None = None
    cache_size: int = CACHE_SIZE

    def __repr__(self) -> str:
        return f"<Settings home={str(self.home)!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("Settings can't be pickled: they may hold a token and a passphrase")


def read(
    env: Mapping[str, str],
    *,
    home: Path | None = None,
    profile: str | None = None,
    token: str | None = None,
    cache: Path | None = None,
    cpus: int | None = None,
) -> Settings:
    """Settings out of `env` and the file; `home`, `profile`, `token` and `cache`, where given, win.

    `threads` is at most 64, and the machine's `cpus` where nobody says. Raises InvalidRequest
    (`bad_settings`) naming what is wrong, NotFound (`no_profile`).
    """
    user = _user_home(env)
    config_home = _expanded(env.get("XDG_CONFIG_HOME"), user / ".config", user) / "modelvault"
    state_home = _expanded(env.get("XDG_STATE_HOME"), user / ".local/state", user) / "modelvault"
    told = _told(env, config_home, profile or env.get("MODELVAULT_PROFILE"), user)

    def path(variable: str, from_file: str | None) -> Path | None:
        text = env.get(variable) or from_file
        return None if not text else _expanded(text, user, user)

    return Settings(
        home=_absolute(home, path("MODELVAULT_HOME", told.home), user / ".modelvault"),
        config_home=config_home.absolute(),
        state_home=state_home.absolute(),
        broker=env.get("MODELVAULT_BROKER") or told.broker,
        ca=path("MODELVAULT_CA", told.ca),
        store_ca=path("MODELVAULT_STORE_CA", told.store_ca),
        trust=path("MODELVAULT_TRUST", told.trust),
        certificate=path("MODELVAULT_CERTIFICATE", told.certificate),
        key=path("MODELVAULT_KEY", told.key),
        token=token if token is not None else env.get("MODELVAULT_TOKEN"),
        token_file=path("MODELVAULT_TOKEN_FILE", told.token_file),
        token_variable=told.token_variable,
        token_command=told.token_command,
        login=told.login,
        passphrase=env.get("MODELVAULT_PASSPHRASE"),
        passphrase_file=path("MODELVAULT_PASSPHRASE_FILE", told.passphrase_file),
        threads=_threads(env.get("MODELVAULT_THREADS"), told.threads, cpus),
        cache=cache.absolute() if cache else path("MODELVAULT_CACHE", told.cache),
        cache_size=_cache_size(env.get("MODELVAULT_CACHE_SIZE") or told.cache_size),
    )


def _user_home(env: Mapping[str, str]) -> Path:
    """The user's folder. A container's user may have none, and no name either: then nothing is
    kept between runs, and nothing else is missing."""
    if env.get("HOME"):
        return Path(env["HOME"])
    try:
        return Path.home()
    except RuntimeError:
        return Path("/nonexistent")


def _expanded(text: str | None, otherwise: Path, user: Path) -> Path:
    if not text:
        return otherwise
    return user / text[2:] if text.startswith("~/") else Path(text)


def _absolute(given: Path | None, named: Path | None, otherwise: Path) -> Path:
    if given is not None and str(given).startswith("~"):
        given = given.expanduser()
    return (given or named or otherwise).absolute()


def _told(
    env: Mapping[str, str], config_home: Path, profile: str | None, user: Path
) -> FileSettings:
    named = env.get("MODELVAULT_CONFIG")
    path = _expanded(named, config_home / "config.toml", user)
    file = _read_file(path, must_exist=named is not None)
    if profile is None:
        return file
    chosen = file.profiles.get(profile)
    if chosen is None:
        raise NotFound(
            "no_profile",
            f"there is no profile {profile!r} in {path}",
            f"known profiles: {', '.join(sorted(file.profiles)) or 'none'};"
            f" write [profiles.{profile[:40]}] into {path}",
        )
    wins = {name: value for name, value in msgspec.structs.asdict(chosen).items() if value}
    return msgspec.structs.replace(file, **wins)


def _read_file(path: Path, *, must_exist: bool) -> _File:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if must_exist:
            raise _bad(path, "it doesn't exist") from None
        return _File()
    except OSError as error:
        raise _bad(path, os.strerror(error.errno or 0)) from None
    if len(data) > MAX_FILE:
        raise _bad(path, f"more than {MAX_FILE} bytes")
    try:
        return msgspec.convert(tomllib.loads(data.decode("utf-8")), _File, strict=True)
    except (ValueError, msgspec.ValidationError) as error:
        raise _bad(path, str(error)) from None


def _threads(text: str | None, told: int | None, cpus: int | None) -> int:
    if text is not None and not text.isdecimal():
        raise InvalidRequest(
            "bad_settings", f"MODELVAULT_THREADS isn't a whole number: {text[:20]!r}", "set 1 to 64"
        )
    wanted = int(text) if text is not None else told
    if wanted is None:
        return min(cpus or 1, MAX_THREADS)
    if not 1 <= wanted <= MAX_THREADS:
        raise InvalidRequest("bad_settings", f"threads: {wanted}", f"set 1 to {MAX_THREADS}")
    return wanted


def _cache_size(told: str | int | None) -> int:
    """Bytes, or a number with one of KiB, MiB, GiB, TiB."""
    if told is None:
        return CACHE_SIZE
    match = _SIZE.fullmatch(str(told).strip())
    size = 0 if match is None else int(match[1]) << _UNITS[match[2]]
    if size < _LEAST_CACHE:
        raise InvalidRequest(
            "bad_settings",
            f"cache_size: {str(told)[:20]!r} is no size of 1 MiB or more",
            "write bytes, or a number with MiB, GiB or TiB; for no cache, name no folder",
        )
    return size


def _bad(path: Path, why: str) -> InvalidRequest:
    return InvalidRequest(
        "bad_settings", f"the settings file {path} can't be used: {why}", "mend or remove it"
    )
