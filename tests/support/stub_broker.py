"""A broker that does what a test says, and remembers what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from modelvault.access import Obligations, Principal
from modelvault.lease import Renewal, Swept

WHO = Principal(id="local:alice", issuer="local", groups=(), claims={}, issued_at=0, expires_at=1)
RENEWAL = Renewal(ttl_s=60, expires_at="2026-01-01T00:00:00.000Z", obligations=Obligations())
SWEPT = Swept(versions=0, uploads=0, objects=0, bytes=0)

_ANSWERS: dict[str, Any] = {"whoami": WHO, "renew": RENEWAL, "list": (), "revoke": 3, "gc": SWEPT}


class StubBroker:
    """Every call is noted in `asked` as (name, arguments, options) and answered by `answer`, which
    may raise; by default with something of the right type."""

    def __init__(self, answer: Callable[[str], Any] = _ANSWERS.get) -> None:
        self.answer = answer
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def reset(self) -> None:
        self.answer = _ANSWERS.get
        self.asked = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*arguments: Any, **options: Any) -> Any:
            self.asked.append((name, arguments, options))
            return self.answer(name)

        return call

    @property
    def callers(self) -> list[Any]:
        return [arguments[0] for _, arguments, _ in self.asked]


class Gate:
    """An answer that waits until it is let go."""

    def __init__(self, value: Any = WHO) -> None:
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()
        self._value = value

    def __call__(self, _name: str) -> Any:
        self.entered.release()
        assert self.go.wait(20)
        return self._value
