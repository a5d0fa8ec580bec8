from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from modelvault.running import forgetting, signals


@pytest.mark.parametrize(("code", "sent"), [(0, True), (-1, True), (-6, True), (0x80, False)])
def test_who_sent_a_signal(code: int, sent: bool) -> None:
    assert signals.came_from_a_process(code) is sent


@pytest.mark.parametrize(("status", "code"), [(0, 0), (7 << 8, 7), (9, 137), (15 | 0x80, 143)])
def test_exit_codes_as_shells_count(status: int, code: int) -> None:
    assert signals.exit_code(status) == code


def test_what_is_handled() -> None:
    kept = {signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGTTIN, signal.SIGTTOU}
    assert not signals.HANDLED & kept
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGWINCH} < signals.HANDLED


RESTORED = """
import os, signal, sys
from modelvault.running import signals
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
before = signals.inherited()
signals.take_all(); signals.unwind_when_asked(before); signals.ignore_all()
signals.restore(before)
os.execvp("grep", ["grep", "Sig[BI]", "/proc/self/status"])
"""


def test_a_command_starts_with_signals_as_they_were() -> None:
    line = [sys.executable, "-c", RESTORED]
    told = subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()
    masks = dict(zip(told[::2], (int(text, 16) for text in told[1::2]), strict=True))
    bit = {number: 1 << (number - 1) for number in signal.valid_signals()}
    assert masks["SigBlk:"] == bit[signal.SIGUSR2]
    assert masks["SigIgn:"] & bit[signal.SIGHUP]
    assert not masks["SigIgn:"] & (bit[signal.SIGTERM] | bit[signal.SIGPIPE] | bit[signal.SIGINT])


def test_an_end_that_is_asked_for_unwinds() -> None:
    script = (
        "import os, signal\n"
        "from modelvault.running import signals\n"
        "signals.unwind_when_asked(signals.inherited())\n"
        "try:\n    os.kill(os.getpid(), signal.SIGTERM)\nfinally:\n    print('unwound')"
    )
    line = [sys.executable, "-c", script]
    ended = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (143, "unwound\n", "")


def test_variables_are_covered_where_others_could_read_them() -> None:
    script = (
        "import os\n"
        "from modelvault.running import forgetting\n"
        "forgetting.cover({'A_TOKEN', 'NONE'})\n"
        "print(open('/proc/self/environ', 'rb').read().split(b'\\0'), os.environ['A_TOKEN'])"
    )
    env = {"A_TOKEN": "s3cret", "B_TOKEN": "kept", "PATH": os.environ["PATH"]}
    env |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env
    ).stdout
    assert told.count("s3cret") == 1
    assert "A_TOKEN=xxxxxx" in told
    assert "B_TOKEN=kept" in told


def test_a_system_that_doesnt_tell_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "_block", lambda: None)
    forgetting.cover({"PATH"})
    assert os.environ["PATH"]
