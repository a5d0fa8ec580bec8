"""The demo's steps: each does something, says what it saw, and fails where that isn't expected."""

from __future__ import annotations

from collections.abc import Callable

from modelvault.clock import Clock
from modelvault.errors import ModelVaultError
from modelvault_cli.documents import Step


class Unexpected(Exception):
    """What was seen isn't what should be seen. Ends the demo."""


class Stage:
    """Runs steps one by one and tells of each as soon as it is done."""

    def __init__(self, tell: Callable[[Step], None], clock: Clock) -> None:
        self._tell = tell
        self._clock = clock
        self.steps: list[Step] = []

    def step(self, title: str, act: Callable[[], str]) -> None:
        """Do `act`, which returns what it saw. Raises Unexpected when that wasn't as it should."""
        start = self._clock()
        failure: Exception | None = None
        try:
            seen = act()
        except Unexpected as error:
            failure, seen = error, str(error)
        except ModelVaultError as error:
            failure, seen = error, f"{error.code}: {error.message}"
        elapsed_ms = self._clock() - start
        done = Step(title=title, ok=failure is None, seen=seen, elapsed_ms=elapsed_ms)
        self.steps.append(done)
        self._tell(done)
        if failure is not None:
            raise Unexpected(title) from failure


def refused(error: type[ModelVaultError], act: Callable[[], object]) -> str:
    """What a refusal of this family says. Raises Unexpected where nothing was refused."""
    try:
        act()
    except error as refusal:
        reasons = refusal.details.get("reasons", ())
        told = [str(reason) for reason in reasons] if isinstance(reasons, list | tuple) else []
        said = f"{refusal.code} · {refusal.message}"  # most messages name the reasons
        return " · ".join([said, *(reason for reason in told if reason not in said)])
    raise Unexpected("it was allowed")


def expect(condition: bool, seen: str) -> str:
    """`seen`, where `condition` holds; else Unexpected."""
    if not condition:
        raise Unexpected(seen)
    return seen
