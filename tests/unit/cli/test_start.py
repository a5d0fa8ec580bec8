"""Ctrl-C while the command is still being imported."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# Ctrl-C at the very moment when a certain module is looked for, so many times.
PROGRAM = """
import os, signal, sys

class Pressed:
    def find_spec(self, name, path=None, target=None):
        global times
        if name == pressed and times:
            times -= 1
            os.kill(os.getpid(), signal.SIGINT)

pressed, times = sys.argv.pop(1), int(sys.argv.pop(1))
sys.meta_path.insert(0, Pressed())
from modelvault_cli.start import run
sys.exit(run())
"""


def pressed_at(module: str, *line: str, times: int = 1) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", PROGRAM, module, str(times), *line]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("module", ["modelvault_cli.main", "click", "modelvault_cli.frame"])
def test_before_the_command_is_there_it_ends_quietly(module: str) -> None:
    ended = pressed_at(module, "--version")
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


@pytest.mark.parametrize("module", ["modelvault_cli.commands.look", "modelvault.wiring", "msgspec"])
def test_from_then_on_it_says_so(module: str) -> None:
    ended = pressed_at(module, "list", "--home", "/nowhere")
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr.startswith("error[interrupted]: interrupted\n")
    assert "Traceback" not in ended.stderr


def test_a_second_one_meanwhile_is_quiet_too() -> None:
    ended = pressed_at("msgspec", "list", "--home", "/nowhere", times=2)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_where_interrupts_are_ignored_they_stay_so() -> None:
    """As of what a shell's script starts in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # children inherit it
    try:
        ended = pressed_at("click", "--version")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("modelvault ")
