from __future__ import annotations

from pathlib import Path

import pytest

from modelvault.errors import InvalidRequest
from modelvault.running import command

FOLDER = Path("/tmp/run/m")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("a", "{model}"), ("a", "/tmp/run/m")),
        (("a", "--model={model}/x.gguf"), ("a", "--model=/tmp/run/m/x.gguf")),
        (("{model}/run", "{model}:{model}"), ("/tmp/run/m/run", "/tmp/run/m:/tmp/run/m")),
        (("a", "{models}", "{ model}", "$MODEL"), ("a", "{models}", "{ model}", "$MODEL")),
        (("a", ""), ("a", "")),
    ],
)
def test_the_folder_stands_wherever_the_word_is(given, words) -> None:
    assert command.words(given, FOLDER) == words


def test_the_environment_has_the_folder_and_no_secret() -> None:
    env = {
        "PATH": "/bin", "MODELVAULT_TOKEN": "t", "MODELVAULT_PASSPHRASE": "p", "CI_TOKEN": "c",
        "MODELVAULT_TOKEN_FILE": "/f", "MODELVAULT_RUN": "/another", "MODELVAULT_MODEL": "/old",
    }  # fmt: skip
    kept = {"PATH": "/bin", "MODELVAULT_TOKEN_FILE": "/f", "MODELVAULT_MODEL": "/tmp/run/m"}
    assert command.environment(env, FOLDER, ["CI_TOKEN"]) == kept
    shared = command.environment(env, FOLDER, ["CI_TOKEN"], Path("/tmp/run"))
    assert shared == kept | {"MODELVAULT_RUN": "/tmp/run"}


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("here", None),
        ("{model}/anything", None),
        ("nowhere", "command_not_found"),
        ("", "command_not_found"),
        ("./text", "command_not_executable"),
        (".", "command_not_found"),
        ("./", "command_not_executable"),
        ("./nowhere", "command_not_found"),
    ],
)
def test_what_cant_be_run_is_told_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, code: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("x")
    (tmp_path / "here").write_text("#!/bin/sh")
    (tmp_path / "here").chmod(0o700)
    env = {"PATH": str(tmp_path)}
    if code is None:
        command.check([program], env)
        return
    with pytest.raises(InvalidRequest) as caught:
        command.check([program], env)
    assert caught.value.code == code
    assert caught.value.hint
