"""A call that may take for ever, and somebody who doesn't wait as long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Asked(Generic[T]):
    """A call that was begun in a thread of its own. One thread waits for it."""

    def __init__(self, call: Callable[[], T], name: str) -> None:
        """Begin it; where the system gives no further thread, it is done here."""
        self._call = call
        self._answer: T | None = None
        self._error: BaseException | None = None
        self._done = threading.Event()
        try:
            threading.Thread(target=self._run, name=name, daemon=True).start()
        except RuntimeError:
            self._run()

    def done(self, seconds: float) -> bool:
        """Whether it has ended, after so long at most."""
        return self._done.wait(seconds)

    def answer(self) -> T:
        """Its value, once it is done. Raises what the call raised."""
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # else error and frame would keep each other
        return self._answer  # type: ignore[return-value]

    def _run(self) -> None:
        try:
            self._answer = self._call()
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._error = error
        finally:
            self._done.set()
