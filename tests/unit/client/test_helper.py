from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from modelvault.client import helper
from modelvault.client.credentials import MAX_TOKEN_BYTES
from modelvault.client.helper import HelperToken
from modelvault.errors import AuthenticationError, ModelVaultError
from modelvault.identity.binding import bound_audience, key_hash, plain_audience
from support.tokens import ISSUED, NOW, VAULT, by_pyjwt, claims

MINE = key_hash("x25519", bytes(32))
ENV = {"PATH": os.environ["PATH"], "GREETING": "hello"}


class Now:
    def __init__(self) -> None:
        self.ms = NOW

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def now() -> Now:
    return Now()


def script(folder: Path, text: str) -> str:
    path = folder / "helper.sh"
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(stat.S_IRWXU)
    return str(path)


def source(*command: str, clock: Now, **how: object) -> HelperToken:
    return HelperToken(command, VAULT, **({"env": ENV, "clock": clock} | how))


def refused(made: HelperToken) -> AuthenticationError:
    with pytest.raises(ModelVaultError) as caught:
        made(None)
    error = caught.value
    assert isinstance(error, AuthenticationError)
    assert error.hint
    assert error.__context__ is error.__cause__ is None
    return error


def test_the_audience_is_told(tmp_path: Path, now: Now) -> None:
    made = source(script(tmp_path, 'echo "$MODELVAULT_AUDIENCE"'), clock=now)
    assert made(None) == plain_audience(VAULT)
    assert made(MINE) == bound_audience(VAULT, MINE)


def test_what_it_gets_of_the_environment(tmp_path: Path, now: Now) -> None:
    env = ENV | {"MODELVAULT_TOKEN": "t", "MODELVAULT_PASSPHRASE": "p"}
    path = script(tmp_path, 'echo "$GREETING-$MODELVAULT_TOKEN-$MODELVAULT_PASSPHRASE"; cat')
    assert source(path, clock=now, env=env)(None) == "hello--"


def test_no_shell_reads_the_words(tmp_path: Path, now: Now) -> None:
    word = f"$(touch {tmp_path}/here)`touch {tmp_path}/there`;|&"
    assert source("printf", "%s", word, clock=now)(None) == word
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("lifetime_s", "kept_s"), [(3600, 3540), (300, 240), (100, 80), (5, 4), (0, 0), (-60, 0)]
)
def test_kept_until_shortly_before_it_ends(
    tmp_path: Path, now: Now, lifetime_s: int, kept_s: int
) -> None:
    token = by_pyjwt(claims(exp=ISSUED + lifetime_s))
    made = source(script(tmp_path, f"echo x >> {tmp_path}/runs; echo {token}"), clock=now)

    def runs() -> int:
        return (tmp_path / "runs").read_text().count("x")

    assert made(None) == token
    now.ms += max(kept_s * 1000 - 1, 0)
    assert made(None) == token
    assert runs() == (1 if kept_s else 2)
    now.ms += 1
    made(None)
    assert runs() == (2 if kept_s else 3)


def test_each_audience_has_its_own_token(tmp_path: Path, now: Now) -> None:
    token = by_pyjwt(claims())
    made = source(
        script(tmp_path, f'echo "$MODELVAULT_AUDIENCE" >> {tmp_path}/runs; echo {token}'), clock=now
    )
    for _ in range(3):
        made(None)
        made(MINE)
    asked = (tmp_path / "runs").read_text().split()
    assert asked == [plain_audience(VAULT), bound_audience(VAULT, MINE)]


def test_not_everything_is_kept(now: Now, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper, "MAX_KEPT", 3)
    made = source("echo", by_pyjwt(claims()), clock=now)
    for number in range(5):
        made(f"key-{number}")
    assert list(made._kept) == [bound_audience(VAULT, f"key-{number}") for number in (2, 3, 4)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("exit 3", "ended with status 3"),
        ("echo no such account >&2; exit 1", "ended with status 1; it says: no such account"),
        ("kill -9 $$", "ended with status -9"),
        (f"head -c {MAX_TOKEN_BYTES + 1} /dev/zero | tr '\\0' x", "printed more than a token"),
        ("yes", "printed more than a token"),
        ("sleep 60", "took more than 1 s"),
        ("sleep 60 & echo t", "took more than 1 s"),
        ("exec >&- 2>&-; sleep 60", "took more than 1 s"),
        ("echo waiting >&2; sleep 60", "took more than 1 s; it says: waiting"),
    ],
)
def test_a_helper_that_fails(tmp_path: Path, now: Now, text: str, told: str) -> None:
    before = time.monotonic()
    patience = 1 if "took" in told else 20
    error = refused(source(script(tmp_path, text), clock=now, timeout_s=patience))
    assert error.code == "helper_failed"
    assert error.message == f"the token helper 'helper.sh' {told}"
    assert time.monotonic() - before < 20


@pytest.mark.parametrize("text", ["true", "echo", "echo two; echo lines", "printf '\\303\\266'"])
def test_what_is_no_token(tmp_path: Path, now: Now, text: str) -> None:
    error = refused(source(script(tmp_path, text), clock=now))
    assert error.code == "bad_token"
    assert "'helper.sh' printed" in error.message
    assert "lines" not in error.message + error.hint


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["/nonexistent/helper"], "can't be run: No such file or directory"),
        ([], "can't be run: no command"),
        (["echo", "nul\0"], "can't be run: no command"),
    ],
)
def test_what_cant_be_run(command: list[str], told: str, now: Now) -> None:
    assert told in refused(source(*command, clock=now)).message


def test_neither_output_nor_tokens_are_shown(tmp_path: Path, now: Now) -> None:
    token = by_pyjwt(claims())
    error = refused(
        source(script(tmp_path, f"echo {token}; echo for {token} >&2; exit 1"), clock=now)
    )
    assert error.message.endswith("ended with status 1; it says: for [token]")
    long = refused(source(script(tmp_path, "yes long | head -c 9000 >&2; exit 1"), clock=now))
    assert len(long.message) < 400
    made = source("echo", token, clock=now)
    made(None)
    assert token[:40] not in f"{made!r} {made._kept!r}"


def test_a_failure_isnt_kept(tmp_path: Path, now: Now) -> None:
    made = source(
        script(tmp_path, f"test -e {tmp_path}/ready || exit 1; echo {by_pyjwt(claims())}"),
        clock=now,
    )
    refused(made)
    (tmp_path / "ready").touch()
    assert made(None) == by_pyjwt(claims())


def test_nothing_that_it_started_is_left(tmp_path: Path, now: Now) -> None:
    path = script(tmp_path, f"sleep 60 & echo $! > {tmp_path}/pid; sleep 60")
    refused(source(path, clock=now, timeout_s=2))
    pid = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.01)
    else:
        assert not Path(f"/proc/{pid}").exists()
