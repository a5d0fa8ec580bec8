"""The frame: exit codes, the one handler of errors, lazy loading, global options."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from modelvault import errors
from modelvault.errors import ModelVaultError
from modelvault_cli import main
from modelvault_cli.frame import Command, Entry, Globals, command, pass_globals
from support import cli_reference

FAMILIES = [
    getattr(errors, name)
    for name in errors.__dict__
    if isinstance(getattr(errors, name), type)
    and issubclass(getattr(errors, name), ModelVaultError)
    and getattr(errors, name) is not ModelVaultError
]


@pytest.fixture
def with_command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Puts a command `try` into the group, that does what the test wants."""

    def add(function: Callable[[], object]) -> None:
        @command("try", "modelvault try")
        def attempt() -> object:
            """Try."""
            return function()

        module = type(sys)("modelvault_cli.commands.attempt")
        module.attempt = attempt
        monkeypatch.setitem(sys.modules, module.__name__, module)
        entries = {**main.COMMANDS, "try": Entry("x", "attempt:attempt", "Try.")}
        monkeypatch.setattr(main.cli, "entries", entries)

    return add


def throwing(error: BaseException) -> Callable[[], object]:
    def function() -> object:
        raise error

    return function


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_has_its_exit_code(
    family: type[ModelVaultError],
    with_command: Callable[[Callable[[], object]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_command(throwing(family("some_code", "what\x1b went wrong", "do that", model="m")))
    assert main.run(["try"]) == main.EXIT_CODES[family.family]
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "error[some_code]: what\\x1b went wrong\nhint: do that\n"
    assert main.run(["try", "--json"]) == main.EXIT_CODES[family.family]
    told = capsys.readouterr()
    assert told.err == ""
    assert json.loads(told.out)["error"] == {
        "code": "some_code",
        "family": family.family,
        "message": "what\x1b went wrong",
        "hint": "do that",
        "exit_code": main.EXIT_CODES[family.family],
        "details": {"model": "m"},
    }


def test_there_are_seven_families() -> None:
    assert {family.family for family in FAMILIES} == set(main.EXIT_CODES)
    assert len(FAMILIES) == 7


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (1, 1)])
def test_what_a_command_returns_is_the_exit_code(
    result: object, code: int, with_command: Callable[[Callable[[], object]], None]
) -> None:
    with_command(lambda: result)
    assert main.run(["try"]) == code


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_interrupted(
    error: BaseException,
    with_command: Callable[[Callable[[], object]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_command(throwing(error))
    assert main.run(["try"]) == 130
    assert capsys.readouterr().err.lstrip().startswith("error[interrupted]")


def test_an_error_without_a_hint_is_one_line(
    with_command: Callable[[Callable[[], object]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with_command(throwing(errors.NotFound("gone", "it is gone")))
    assert main.run(["try"]) == 4
    assert capsys.readouterr().err == "error[gone]: it is gone\n"


def test_a_bug_shows_no_values(
    with_command: Callable[[Callable[[], object]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with_command(throwing(RuntimeError("canary-in-the-message")))
    assert main.run(["try"]) == 70
    told = capsys.readouterr().err
    assert "error[internal]: unexpected RuntimeError" in told
    assert "Traceback" not in told
    assert main.run(["-v", "try"]) == 70
    told += capsys.readouterr().err
    assert "test_main.py" in told
    assert "canary-in-the-message" not in told


def test_a_broken_pipe_is_quiet() -> None:
    script = (
        "import sys, modelvault_cli.main as m\n"
        "def full(*a, **k): raise BrokenPipeError\n"
        "m.cli.invoke = full\n"
        "sys.exit(m.run(['list']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 141
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (["pusj"], "Did you mean push"),
        (["xyzzy"], "No such command 'xyzzy'."),
        (["--nonsense"], "No such option"),
        (["push"], "Missing argument"),
        (["push", "--nonsense"], "No such option"),
        (["lease", "nonsense"], "No such command"),
        (["list", "--limit", "0"], "not in the range"),
        (["token", "mint", "--for", "soon"], "no time span"),
        (["push", "a", "b", "--label", "x"], "not name=value"),
        (["completion", "tcsh"], "is not one of"),
    ],
)
def test_usage_errors(line: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(line) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error[usage]: ")
    assert part in told.err
    assert "--help" in told.err
    assert main.run([*line, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"


@pytest.mark.parametrize("mistake", [["--nonsense"], ["--purpose"], ["a", "b"], []])
def test_the_hint_names_the_command(mistake: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["load", *mistake]) == 2
    assert "see modelvault load --help" in capsys.readouterr().err


@pytest.mark.parametrize("line", [[], ["lease"], ["token"]])
def test_nothing_to_do_shows_the_help(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(line) == 2
    assert "Usage: modelvault" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("modelvault 0.")


@pytest.mark.parametrize(
    "line",
    [
        ["--home", "/h", "--broker", "u", "--profile", "p", "--json", "-v", "try"],
        ["try", "--home", "/h", "--broker", "u", "--profile", "p", "--json", "-v"],
        ["--home", "/other", "--json", "try", "-v", "--home=/h", "--broker=u", "--profile=p"],
    ],
)
def test_global_options_before_or_after(line: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Globals] = []

    @command("try", "modelvault try")
    @pass_globals
    def attempt(options: Globals) -> None:
        """Try."""
        seen.append(options)

    module = type(sys)("modelvault_cli.commands.attempt")
    module.attempt = attempt
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(main.cli, "entries", {"try": Entry("x", "attempt:attempt", "Try.")})
    assert main.run(line) == 0
    (options,) = seen
    told = (options.home, options.broker, options.profile, options.json, options.verbose)
    assert told == (Path("/h"), "u", "p", True, True)


@pytest.mark.parametrize("path", [(), *cli_reference.commands()], ids=" ".join)
def test_help_fits_and_has_examples(path: tuple[str, ...]) -> None:
    text = cli_reference.help_text(path)
    assert max(map(len, text.splitlines())) <= cli_reference.WIDTH
    group: click.Command = main.cli
    for name in path:
        assert isinstance(group, click.Group)
        found = group.get_command(click.Context(group), name)
        assert found is not None
        group = found
    if isinstance(group, click.Group):
        return
    assert isinstance(group, Command)
    assert group.examples
    for example in group.examples:
        assert f"modelvault {' '.join(path)}" in example
        assert f"  {example}\n" in text


def test_no_line_of_a_groups_help_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name in main.cli.entries:
        found = main.cli.get_command(click.Context(main.cli), name)
        if isinstance(found, click.Group):
            context = click.Context(found, info_name=name, terminal_width=80, max_content_width=80)
            told = found.get_help(context)
            assert "..." not in told.partition("Commands:")[2], told


def test_help_imports_no_vault() -> None:
    script = (
        "import sys, modelvault_cli.main as m; m.run(['--help'])\n"
        "heavy = {'msgspec', 'numpy', 'rich', 'cryptography', 'sqlalchemy', 'regorus'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.splitlines()[-1] == b"[]"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["completion", shell]) == 0
    assert "_MODELVAULT_COMPLETE" in capsys.readouterr().out
    assert main.run(["completion", shell, "--json"]) == 2
