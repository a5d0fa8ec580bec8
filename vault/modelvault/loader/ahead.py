"""A piece of work that goes on while its caller does something else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Begins at once, in a thread of its own. One `result` is asked for, by one thread.

    The thread ends with the work: there is no pool to outlive a fork. Where the system gives no
    further thread, the work is done when it is asked for.
    """

    def __init__(self, work: Callable[[], T], name: str = "modelvault-ahead") -> None:
        self._work: Callable[[], T] | None = work
        self._value: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            self._thread.start()
            self._started = True
        except RuntimeError:
            self._started = False

    def result(self) -> T:
        """What came of it; raises what it raised. Waits. Nothing of it is kept here."""
        if self._started:
            self._thread.join()
        else:
            self._run()
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
            return self._value.pop()
        finally:
            del error  # else error and frame would keep each other, and what they hold, alive

    def done(self, seconds: float) -> bool:
        """Whether it has ended, after so long at most: for who can't wait for its result as long as
        it may take. Without a further thread it is done now."""
        if self._started:
            self._thread.join(seconds)
            return not self._thread.is_alive()
        self._run()
        return True

    def wait(self) -> None:
        """As `result`, for whoever doesn't want it: it is dropped, also where it is an error."""
        if self._started:
            self._thread.join()
        self._value.clear()
        self._error = None

    def _run(self) -> None:
        work, self._work = self._work, None
        if work is None:
            return
        try:
            self._value.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again by `result`
            self._error = error
