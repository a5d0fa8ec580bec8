"""Real servers as child processes on loopback: found, started, ended by their own pid."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import pytest

READY_S = 30.0
STOP_S = 10.0


def folder() -> Path:
    """Where built servers lie, by name and version."""
    named = os.environ.get("MODELVAULT_SERVERS")
    return Path(named) if named else Path.home() / ".cache" / "modelvault-servers"


def find(name: str, *places: str) -> Path | None:
    """The program `name`: on PATH, or at one of `places`, patterns below the servers' folder."""
    found = shutil.which(name)
    if found:
        return Path(found)
    for place in places:
        for path in sorted(folder().glob(place)):
            if os.access(path, os.X_OK) and path.is_file():
                return path
    return None


def require(name: str, *places: str) -> Path:
    """`find`, or this test is skipped; under CI a missing server is a failure."""
    found = find(name, *places)
    if found is None:
        absent(name)
    return found


def absent(name: str) -> None:
    """This test needs a server that isn't here."""
    message = f"{name} isn't here: .ci/run builds it"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(port: int) -> bool:
    """Whether something accepts connections on the loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Process:
    """A server of our own. Its output goes to `log`; `stop` ends it, politely first."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        ready: Callable[[], bool],
        env: Mapping[str, str] | None = None,
        user: str | int | None = None,
        cwd: Path | None = None,
        ready_s: float = READY_S,
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                user=user,
                cwd=cwd,
                start_new_session=True,  # Ctrl-C at the terminal is for the tests to handle
            )
        self._wait(ready, ready_s)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    def running(self) -> bool:
        """Whether it hasn't ended."""
        return self._child.poll() is None

    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._child.poll()

    def signal(self, number: int) -> None:
        """Send a signal: SIGSTOP and SIGCONT make a server that hangs and comes back."""
        self._child.send_signal(number)

    def wait(self) -> int:
        """Until it has ended by itself: its exit status."""
        return self._child.wait(STOP_S)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._child.kill()
        self._child.wait(STOP_S)

    def stop(self) -> None:
        """End it. Idempotent."""
        if not self.running():
            return
        self._child.send_signal(signal.SIGCONT)
        self._child.terminate()
        try:
            self._child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def until(self, ready: Callable[[], bool], seconds: float = READY_S) -> None:
        """Wait for something that this server does later."""
        self._wait(ready, seconds)

    def _wait(self, ready: Callable[[], bool], seconds: float) -> None:
        until = time.monotonic() + seconds
        while not ready():
            if not self.running() or time.monotonic() > until:
                self.stop()
                tail = self.log.read_text("utf-8", "replace")[-2000:]
                pytest.fail(f"{self._child.args!r} didn't get ready:\n{tail}")
            time.sleep(0.05)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
