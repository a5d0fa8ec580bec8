"""The installed command, from outside: a newcomer's path, exit codes, signals, terminals, pipes."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.command import PROGRAM, Told, model_folder, spawn

Run = Callable[..., Told]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outside")


@pytest.fixture(scope="module")
def env(place: Path) -> dict[str, str]:
    """A clean environment with a home of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MODELVAULT_")}
    return {**kept, "HOME": str(place), "XDG_CONFIG_HOME": str(place / "config"), "TERM": "xterm"}


@pytest.fixture(scope="module")
def run(env: dict[str, str], place: Path) -> Run:
    return lambda *line, **more: spawn(*line, env={**env, **more}, cwd=place)


@pytest.fixture(scope="module")
def vault(run: Run, place: Path) -> Path:
    """What a newcomer does first; `minilm:prod` is there afterwards."""
    assert run("init").code == 0
    assert run("create", "minilm").code == 0
    assert run("push", model_folder(place / "plain"), "minilm:prod").code == 0
    return place / ".modelvault"


def test_the_first_minute(run: Run, vault: Path) -> None:
    assert "minilm" in run("list").out
    loaded = run("load", "minilm:prod", "--purpose", "inference", "--json")
    assert loaded.code == 0
    assert loaded.document("load").version == 1
    audit = run("audit").out
    for action in ("init", "create", "push", "load", "release"):
        assert action in audit


@pytest.mark.parametrize(
    ("line", "exit_code"),
    [
        (["list"], 0),
        (["policy", "explain", "load", "minilm", "-p", "marketing"], 1),
        (["push", "nowhere", "minilm"], 2),
        (["nonsense"], 2),
        (["load", "minilm", "-p", "marketing"], 3),
        (["show", "nosuch"], 4),
        (["create", "minilm"], 4),
    ],
)
def test_exit_codes(run: Run, vault: Path, line: list[str], exit_code: int) -> None:
    told = run(*line)
    assert told.code == exit_code
    assert "Traceback" not in told.err


def test_an_altered_object_is_exit_5(run: Run, vault: Path) -> None:
    objects = [path for path in (vault / "objects").rglob("*") if path.is_file()]
    largest = max(objects, key=lambda path: path.stat().st_size)
    good = largest.read_bytes()
    largest.chmod(0o600)
    largest.write_bytes(good[:5000] + bytes([good[5000] ^ 1]) + good[5001:])
    try:
        told = run("load", "minilm:prod", "-p", "inference", "--json")
        assert told.code == 5
        assert told.error.family == "integrity"
    finally:
        largest.write_bytes(good)


def test_a_missing_root_key_is_exit_6(run: Run, vault: Path, place: Path) -> None:
    (key,) = (place / "config" / "modelvault").glob("*.key")
    hidden = key.rename(key.with_suffix(".away"))
    try:
        told = run("list")
        assert told.code == 6
        assert "error[root_key_unavailable]" in told.err
        assert "hint: " in told.err
    finally:
        hidden.rename(key)


def test_a_bad_token_is_exit_7(run: Run, vault: Path) -> None:
    told = run("whoami", "--json", MODELVAULT_TOKEN="a.b.c")
    assert told.code == 7
    assert told.error.family == "authentication"


def test_a_broken_settings_file_is_exit_2(run: Run, vault: Path, place: Path) -> None:
    broken = place / "broken.toml"
    broken.write_text("hom = 'x'")
    told = run("list", MODELVAULT_CONFIG=str(broken))
    assert told.code == 2
    assert "error[bad_settings]" in told.err


def test_a_passphrase_instead_of_a_key_file(run: Run, place: Path) -> None:
    secret = place / "passphrase"
    secret.write_text("correct horse battery staple\n")
    told = {"MODELVAULT_PASSPHRASE_FILE": str(secret), "MODELVAULT_HOME": str(place / "phrased")}
    assert run("init", "--root-key", "passphrase", **told).code == 0
    assert run("create", "m", **told).code == 0
    wrong = run("list", MODELVAULT_HOME=told["MODELVAULT_HOME"], MODELVAULT_PASSPHRASE="canary")
    assert wrong.code == 7
    assert "canary" not in wrong.err
    assert "error[wrong_root_key]" in wrong.err
    nobody = run("list", MODELVAULT_HOME=told["MODELVAULT_HOME"])
    assert nobody.code == 2
    assert "error[no_passphrase]" in nobody.err


def test_a_reader_that_goes_away(vault: Path, env: dict[str, str]) -> None:
    with subprocess.Popen(
        [PROGRAM, "audit"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 141


# The terminal must be the session's own, or else ^C is a character and no signal.
OWN_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def terminal(line: list[str], env: dict[str, str], keys: bytes = b"") -> tuple[int, str]:
    """Run on a terminal of its own, 100 columns wide; `keys` are typed at the question."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", OWN_TERMINAL, PROGRAM, *line],
        env={**env, "COLUMNS": "100"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""
    silence = 0
    while silence < 20:
        if not select.select([ours], [], [], 3)[0]:
            # Python's readline misses a signal that comes just before it begins to wait: do as
            # people do, and press the key again.
            silence += 1
            if keys and b"[y/N]" in seen:
                os.write(ours, keys)
            continue
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # Linux: EIO at the end
            break
        first = b"[y/N]" not in seen
        seen += part
        if keys and first and b"[y/N]" in seen:
            os.write(ours, keys)
    os.close(ours)
    return process.wait(60), seen.decode("utf-8", "replace")


def test_progress_on_a_terminal(vault: Path, place: Path, env: dict[str, str]) -> None:
    big = model_folder(place / "big", 48 << 20)
    code, seen = terminal(["push", str(big), "minilm"], env)
    assert code == 0
    assert "encrypting minilm" in seen
    assert re.search(r"[MG]i?B/s", seen)
    assert "pushed:" in seen


@pytest.mark.parametrize(("command", "said"), [("pull", "copying"), ("export", "decrypting")])
def test_progress_of_copies(
    vault: Path, place: Path, env: dict[str, str], command: str, said: str
) -> None:
    code, seen = terminal([command, "minilm:prod", str(place / command)], env)
    assert code == 0
    assert f"{said} minilm:prod" in seen
    assert (place / command).is_dir()


def test_no_progress_without_one(run: Run, vault: Path, place: Path) -> None:
    told = run("push", place / "plain", "minilm")
    assert told.code == 0
    assert "encrypting" not in told.err + told.out
    assert "\x1b" not in told.err + told.out


@pytest.mark.parametrize(
    ("keys", "code"), [(b"n\n", 1), (b"y\n", 0), (b"\x04", 130), (b"\x03", 130)]
)
def test_questions_on_a_terminal(vault: Path, env: dict[str, str], keys: bytes, code: int) -> None:
    got, seen = terminal(["revoke", "principal", "local:q", "--reason", "r"], env, keys)
    assert "Revoke principal local:q?" in seen
    assert got == code


def objects(vault: Path) -> set[Path]:
    return {path for path in (vault / "objects").rglob("*") if path.is_file()}


def test_ctrl_c_in_a_push(run: Run, vault: Path, place: Path, env: dict[str, str]) -> None:
    """No version, no object left, and the next push works."""
    large = place / "large"
    large.mkdir()
    with (large / "weights.bin").open("wb") as file:
        file.truncate(512 << 20)  # a hole: no disk is filled before the push
    before = run("show", "minilm", "--json").document("show").model.latest
    kept = objects(vault)
    process = subprocess.Popen(
        [PROGRAM, "push", str(large), "minilm"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith(b"found 1 file")  # the push begins now
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"error[interrupted]" in err
    assert b"Traceback" not in err
    assert out == b""
    assert run("show", "minilm", "--json").document("show").model.latest == before
    assert objects(vault) == kept
    assert run("push", place / "plain", "minilm").code == 0


def test_json_is_the_only_thing_on_stdout(run: Run, vault: Path, place: Path) -> None:
    for line in (
        ["list"], ["show", "minilm"], ["audit"], ["whoami"], ["doctor"], ["lease", "list"],
        ["push", str(place / "plain"), "minilm"], ["show", "nosuch"], ["nonsense"],
    ):  # fmt: skip
        json.loads(run("--json", *line).out)


def test_texts_that_drive_a_terminal_are_shown_harmless(run: Run, place: Path, vault: Path) -> None:
    told = run("push", place / "plain", "minilm", "--label", "note=\x1b[31mred\x07")
    told = run("show", "minilm") if told.code == 0 else told
    assert "\x1b" not in told.out + told.err
    assert "\\x1b[31mred" in told.out + told.err
