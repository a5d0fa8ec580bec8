"""What holds for all tests."""

from __future__ import annotations

import gc
import signal
from collections import defaultdict
from pathlib import PurePosixPath

import pytest

# Whoever starts the tests in the background may have Ctrl-C ignored, and children inherit that:
# tests that press it would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Thousands of tests and the modules of all frameworks stay: no collection of garbage need
    look at them again."""
    gc.collect()
    gc.freeze()


_ran: dict[str, set[str]] = defaultdict(set)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember the adapters that a contract's tests have passed with."""
    place = PurePosixPath(report.nodeid.partition("::")[0]).parts
    if report.when == "call" and report.passed and place[:2] == ("tests", "contract"):
        found = (str(value) for name, value in report.user_properties if name == "adapter")
        _ran[place[2]].update(found)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which adapters the contract suites ran against."""
    for port, adapters in sorted((port, ran) for port, ran in _ran.items() if ran):
        terminalreporter.write_line(f"contract: {port}: {', '.join(sorted(adapters))}")
