"""What a job's own tools may show: tracebacks with the values of all locals, logs, pickles.

Tools such as rich, cgitb and error trackers print every local of every frame of an error and of
what it came from. None of that may be a token, a passphrase or a key.
"""

from __future__ import annotations

import base64
import dataclasses
import logging
import os
import pickle
import secrets as random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from modelvault import connect, wiring
from modelvault.access import Caller
from modelvault.adapters.keys_local import LocalKeyring
from modelvault.adapters.objects_folder import FolderStore
from modelvault.client.session import Session
from modelvault.crypto.secret import Secret
from modelvault.errors import AuthenticationError, IntegrityError, ModelVaultError
from modelvault.settings import Settings
from support.attacked import change, folder
from support.homes import isolated

HERE = Path(__file__).parents[1]
PASSPHRASE = "correct horse battery staple"
CONTENT = b"CANARY-OF-THE-WEIGHTS" * 400


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = isolated(tmp_path, monkeypatch)
    wiring.init(segment_length=4096)
    with connect() as vault:
        vault.create("m", classification="restricted")
        vault.push(folder(tmp_path / "in", {"a.dat": CONTENT}), "m")
    return place


@pytest.fixture
def vault(home: Path) -> Iterator[Session]:
    with connect() as session:
        yield session


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bytes of every key of 16 bytes and more that is made from now on."""
    found: list[bytes] = []
    real = Secret.reveal

    def reveal(self: Secret) -> memoryview:
        view = real(self)
        if len(view) >= 16 and any(view):
            found.append(bytes(view))
        return view

    monkeypatch.setattr(Secret, "reveal", reveal)
    return found


def shown(value: object, depth: int = 2) -> str:
    """As the most talkative of tools: containers and dataclasses are opened."""
    if depth and isinstance(value, dict):
        return " ".join(f"{key!r} {shown(item, depth - 1)}" for key, item in value.items())
    if depth and isinstance(value, list | tuple | set):
        return " ".join(shown(item, depth - 1) for item in value)
    if depth and dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return " ".join(shown(getattr(value, field.name), depth - 1) for field in fields)
    return repr(value)


def frames(error: BaseException | None) -> Iterator[FrameType]:
    """Every frame of an error and of all that it came from, but those of tests."""
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            if not trace.tb_frame.f_code.co_filename.startswith(str(HERE)):
                yield trace.tb_frame
            trace = trace.tb_next
        error = error.__cause__ or error.__context__


def told(error: ModelVaultError) -> str:
    text = [repr(error), str(error), error.hint, repr(dict(error.details)), repr(error.__notes__)
            if hasattr(error, "__notes__") else ""]  # fmt: skip
    looked_at = list(frames(error))
    assert looked_at, "no frame of ours was looked at"
    for frame in looked_at:
        text.append(frame.f_code.co_name)
        text += [shown(value) for value in frame.f_locals.values()]
    return "\n".join(text)


def forms(secret: bytes) -> list[str]:
    return [
        secret.hex(),
        repr(secret)[2:-1],
        repr(bytearray(secret))[12:-2],
        base64.b64encode(secret).decode().rstrip("=")[:-2],
        base64.urlsafe_b64encode(secret).decode().rstrip("=")[:-2],
        repr(list(secret))[1:-1],
    ]


def clean(text: str, *hidden: bytes | str) -> None:
    for secret in hidden:
        for form in [secret] if isinstance(secret, str) else forms(secret):
            assert form not in text


def refused(use: Callable[[], object]) -> ModelVaultError:
    with pytest.raises(ModelVaultError) as caught:
        use()
    return caught.value


def loading(**how: Any) -> None:
    with connect(**how) as session, session.load("m", purpose="inference") as model:
        model.read_bytes("a.dat")


def test_the_search_finds_what_is_there() -> None:
    key = random.token_bytes(32)

    def fail(_key: bytes) -> None:
        raise AuthenticationError("x", "x")

    (frame,) = [frame for frame in _all_frames(lambda: fail(key)) if "_key" in frame.f_locals]
    text = shown(frame.f_locals)
    with pytest.raises(AssertionError):
        clean(text, key)


def _all_frames(use: Callable[[], object]) -> list[FrameType]:
    trace = refused(use).__traceback__
    found = []
    while trace is not None:
        found.append(trace.tb_frame)
        trace = trace.tb_next
    return found


def parts(token: str) -> list[str]:
    return [token, *token.split(".")[1:]]


def test_tokens(
    home: Path, vault: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: list[bytes]
) -> None:
    """Refused for whatever reason, read from wherever."""
    good = vault.mint_token(sub="job", groups=["inference"])
    other = tmp_path / "other"
    wiring.init(other)
    with connect(home=other) as second:
        foreign = second.mint_token(sub="job", groups=["inference"])
    refusals = {
        "bound to another key": vault.mint_token(sub="x", groups=[], key_hash="A" * 43),
        "of another vault": foreign,
        "with another signature": good[:-8] + "AAAAAAAA",
        "cut": good[:-1],
        "not ASCII": good + "\u0661",
        "20 KiB": good + "x" * (20 << 10),
        "without rights": vault.mint_token(sub="x", groups=[]),
        "a bearer's": good,
    }
    path = tmp_path / "token"
    monkeypatch.setenv("MODELVAULT_TOKEN_FILE", str(path))
    for case, token in refusals.items():
        path.write_text(token)
        error = refused(loading)
        clean(told(error), *parts(token))
        clean(told(error), *keys)
        assert error.family in {"authentication", "not_found", "access_denied"}, case
    monkeypatch.delenv("MODELVAULT_TOKEN_FILE")
    monkeypatch.setenv("MODELVAULT_TOKEN", good)
    clean(told(refused(loading)), *parts(good))
    monkeypatch.setenv("MODELVAULT_THREADS", "many")
    clean(told(refused(loading)), *parts(good))
    monkeypatch.setenv("MODELVAULT_THREADS", "1")
    (home / "vault.json").write_text("{}")
    clean(told(refused(loading)), *parts(good))


def test_keys_of_a_load_that_fails(
    home: Path, vault: Session, monkeypatch: pytest.MonkeyPatch, keys: list[bytes]
) -> None:
    """At each step of it: the key service, the seal, the store, a segment."""
    name = next((home / "objects").iterdir()).name

    def failing(*_args: object) -> None:
        raise IntegrityError("planted", "planted")

    for owner, step in (
        (LocalKeyring, "unwrap"),
        (FolderStore, "read_into"),
        (FolderStore, "size"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(owner, step, failing)
            clean(told(refused(loading)), *keys)
    data = (home / "objects" / name).read_bytes()
    (home / "objects" / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    clean(told(refused(loading)), *keys, CONTENT[:48])
    (home / "objects" / name).write_bytes(data)
    change(home, "update keys set wrapped = zeroblob(60)")
    clean(told(refused(loading)), *keys)
    assert len(set(keys)) > 5


def test_a_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: list[bytes]) -> None:
    isolated(tmp_path, monkeypatch)
    monkeypatch.setenv("MODELVAULT_PASSPHRASE", PASSPHRASE)
    wiring.init(root="passphrase")
    wrong = PASSPHRASE + ", but another one"
    monkeypatch.setenv("MODELVAULT_PASSPHRASE", wrong)
    error = refused(loading)
    assert error.code == "wrong_root_key"
    clean(told(error), PASSPHRASE, *keys)
    monkeypatch.setenv("MODELVAULT_PASSPHRASE", PASSPHRASE)
    (tmp_path / "home" / "keyring.json").write_text("{}")
    clean(told(refused(loading)), PASSPHRASE, *keys)
    (tmp_path / "home" / "vault.json").write_text("{}")
    clean(told(refused(loading)), PASSPHRASE, *keys)


def test_logs_of_every_library(
    home: Path, vault: Session, caplog: pytest.LogCaptureFixture, keys: list[bytes],
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    token = vault.mint_token(sub="root", groups=["admins"])
    for name in (None, "modelvault", "sqlalchemy", "sqlalchemy.engine", "sqlalchemy.pool"):
        caplog.set_level(logging.DEBUG, logger=name)
    with connect(token=token) as session:
        session.push(home.parent / "in", "m")
        refused(lambda: session.load("m", purpose="inference"))  # it wants a key-bound token
    with connect() as session, session.load("m", purpose="inference") as model:
        model.open("a.dat").read()
        session.rotate("m")
    text = caplog.text + "".join(capfd.readouterr())
    assert "INSERT" in text, "the database's log was not on"
    clean(text, *parts(token), *keys, CONTENT[:48])


def test_what_holds_a_secret_is_not_pickled(home: Path, vault: Session) -> None:
    token = vault.mint_token(sub="job", groups=["inference"])
    settings = Settings(
        home=home, config_home=home, state_home=home, token=token, passphrase=PASSPHRASE
    )
    with connect(token=token) as job, connect() as owner:
        model = owner.load("m", purpose="inference")
        for thing in (
            Caller(token=token), settings, job, job._context, job._context.credentials,
            model, model._residents["a.dat"], model._gate, owner._local, owner._context.broker,
        ):  # fmt: skip
            clean(shown(thing), *parts(token), PASSPHRASE)
            assert thing is not None
            with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
                pickle.dumps(thing)
        model.close()


def test_the_environment_is_left_alone(vault: Session) -> None:
    before = dict(os.environ)
    with vault.load("m", purpose="inference") as model:
        model.open("a.dat").read()
        model.path()
    assert dict(os.environ) == before
