"""A save that goes on beside the training: it is waited for, and no error of it is lost."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from modelvault.errors import Conflict, Unavailable

T = TypeVar("T")
Result_co = TypeVar("Result_co", covariant=True)


class Saving(Generic[Result_co]):
    """A save in the background. Thread-safe.

    Its error is raised by `wait()`, by each call of it; where nobody waits, by closing the session;
    and where a script just ends, it goes to stderr.
    """

    def __init__(self, reference: str, work: Callable[[], Result_co]) -> None:
        """Raises Unavailable (`no_thread`) where the system gives no further thread."""
        self.reference = reference
        self._work = work
        self._result: Result_co | None = None
        self._error: BaseException | None = None
        self._seen = False
        self._owner = os.getpid()
        self._ended = threading.Event()
        # Not a daemon: a script that ends without waiting still finishes its last checkpoint.
        thread = threading.Thread(target=self._run, name="modelvault-save")
        try:
            thread.start()
        except RuntimeError:
            raise Unavailable(
                "no_thread",
                "the system gives this process no further thread",
                "raise the limit on processes, or use save()",
            ) from None

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._ended.is_set()

    @property
    def error(self) -> BaseException | None:
        """Why it failed; None while it runs, and when it went well."""
        return self._error if self.done else None

    def wait(self, timeout_s: float | None = None) -> Result_co:
        """What was saved, once that is done.

        Raises what the save failed with, and Unavailable (`still_saving`) after `timeout_s`
        seconds: it goes on then, and can be waited for again.
        """
        if self.foreign:
            raise Conflict(
                "other_process",
                f"the save of {self.reference} runs in the process that this one was forked from",
                "wait for it there",
            )
        if not self._ended.wait(timeout_s):
            raise Unavailable(
                "still_saving",
                f"the save of {self.reference} isn't done after {timeout_s:g} s",
                "wait longer: it goes on",
            )
        self._seen = True
        if self._error is not None:
            raise self._error
        assert self._result is not None  # noqa: S101  it ended, and not by an error
        return self._result

    @property
    def foreign(self) -> bool:
        """Whether this is a fork of the process that it runs in: here it never ends."""
        return os.getpid() != self._owner and not self.done

    @property
    def unseen_error(self) -> BaseException | None:
        """Its error, if nobody was told of it by `wait`."""
        return None if self._seen else self.error

    def _run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001  raised again where it is waited for
            self._error = error
        finally:
            # What the work holds (tensors, memory) goes now, not with the handle.
            del self._work
            self._ended.set()

    def __repr__(self) -> str:
        state = "running" if not self.done else "failed" if self._error else "done"
        return f"<Saving of {self.reference}: {state}>"


class Savings:
    """The saves in the background of one session: one at a time, and what went wrong with those
    that nobody waited for. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: Saving[object] | None = None
        self._failed: list[Saving[object]] = []
        self._closed = False
        self._owner = os.getpid()
        self._watched = False

    def begin(self, start: Callable[[], Saving[T]]) -> Saving[T]:
        """Start one. Raises Conflict (`save_running`, `closed`), and what `start` raises."""
        with self._lock:
            if self._closed:
                raise Conflict("closed", "this session was closed", "connect again")
            if (running := self._running) and not (running.done or running.foreign):
                raise Conflict(
                    "save_running",
                    f"the save of {running.reference} is still running, and a second copy "
                    "would take as much memory again",
                    "wait() for it first, or save less often",
                )
            self._remember()
            saving = start()
            self._running = saving
            self._owner = os.getpid()
            if not self._watched:
                atexit.register(self._tell)
                self._watched = True
            return saving

    def finish(self) -> None:
        """Wait for what runs, then raise the first error that nobody was told of, the others in
        its notes. From then on none can begin. Idempotent: each error is raised once."""
        with self._lock:
            self._closed = True
            if self._running is not None and not self._running.foreign:
                self._running._ended.wait()
            self._remember()
            atexit.unregister(self._tell)  # not before: Ctrl-C ends the waiting, not the save
            failed, self._failed = self._failed, []
        errors = [(each.reference, each.unseen_error) for each in failed]
        untold = [(reference, error) for reference, error in errors if error is not None]
        if not untold:
            return
        (reference, first), *others = untold
        first.add_note(f"this was the save of {reference} in the background")
        for reference, error in others:
            first.add_note(f"the save of {reference} failed, too: {error}")
        raise first

    def _tell(self) -> None:
        """At the end of a script that neither waited nor closed its session: say on stderr what
        went wrong, with its notes, which Python leaves out of errors that are raised here."""
        if os.getpid() != self._owner:
            return  # a fork: the lock may be held by a thread that isn't here
        try:
            self.finish()
        except Exception as error:  # noqa: BLE001  it has nobody to go to
            sys.excepthook(type(error), error, error.__traceback__)

    def _remember(self) -> None:
        if self._running is not None and self._running.unseen_error is not None:
            self._failed.append(self._running)
        self._running = None
