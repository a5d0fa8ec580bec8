"""The versions that serve: who uses which, and when one may go."""

from __future__ import annotations

import gc
import threading
from contextvars import ContextVar
from typing import Generic, TypeVar

from modelvault.errors import Conflict, ModelVaultError, Unavailable
from modelvault.loader.model import Model

Prepared = TypeVar("Prepared")

# What the code that runs now holds: a request within a request gets the same version. A variable of
# the context and not of the thread, since tasks of one event loop share theirs.
_held: ContextVar[tuple[Request, ...]] = ContextVar("modelvault_held", default=())


class Generation(Generic[Prepared]):
    """One loaded version, and what was prepared of it. `Serving` counts its users."""

    def __init__(self) -> None:
        self.users = 0
        self.idle_since: int | None = None
        self._tries = 0
        self.ended: str | None = None
        self.prepared: Prepared | None = None
        self._model: Model | None = None

    @property
    def model(self) -> Model:
        """The model, from the moment it was loaded."""
        if self._model is None:
            raise Conflict("closed", "this version isn't loaded", "load it")
        return self._model

    @model.setter
    def model(self, model: Model) -> None:
        self._model = model

    @property
    def version(self) -> int:
        """The version's number."""
        return self.model.manifest.version

    def let_go(self) -> None:
        """Forget what was prepared. What has no views any more can be wiped then."""
        self.prepared = None

    def close(self) -> bool:
        """Wipe it and give its lease back; False while something looks at its memory."""
        self.let_go()
        if self._wiped():
            return True
        self._tries += 1
        if self._tries & (self._tries - 1):
            return False
        # Modules and sessions of frameworks are full of cycles. Less and less often: a collection
        # stops all threads of a large process for a while.
        gc.collect()
        return self._wiped()

    def _wiped(self) -> bool:
        try:
            self.model.close()
        except Conflict:
            return False
        return True


class Serving(Generic[Prepared]):
    """Which version is given to requests. Thread-safe; nothing slow is done under its lock."""

    def __init__(self, name: str, first: Generation[Prepared]) -> None:
        """`name` is what is followed, for messages."""
        self._name = name
        self._changed = threading.Condition()
        self._current: Generation[Prepared] | None = first
        self._why: ModelVaultError | None = None
        self._paused = False
        self._closed = False
        self.retired: list[Generation[Prepared]] = []

    @property
    def current(self) -> Generation[Prepared] | None:
        """What a request would get, or None after a swap in place that couldn't be undone."""
        return self._current

    @property
    def ready(self) -> bool:
        """Whether a request would be served, at once."""
        with self._changed:
            current = self._current
            open_now = not (self._closed or self._paused)
            return open_now and current is not None and current.ended is None

    def enter(self, wait_s: float | None) -> Generation[Prepared]:
        """A request begins. Raises Conflict (`closed`), Unavailable (`swapping`: nothing could be
        given within `wait_s` seconds), AccessDenied once the version's lease is over."""
        with self._changed:
            for request in _held.get():
                held = request.generation
                if not request.over and (held is self._current or held in self.retired):
                    held.users += 1
                    return held  # type: ignore[return-value]  # it is one of ours
            self._changed.wait_for(lambda: self._closed or not self._paused, wait_s)
            generation = self._admitting()
            generation.users += 1
            return generation

    def leave(self, generation: Generation[Prepared]) -> bool:
        """A request ends. Whether it was the last one of a version that doesn't serve any more."""
        with self._changed:
            generation.users -= 1
            if generation.users:
                return False
            self._changed.notify_all()
            return generation is not self._current or generation.ended is not None

    def swap(self, new: Generation[Prepared]) -> bool:
        """From now on requests get `new`. False, and nothing done, where none is begun any more."""
        with self._changed:
            if self._closed:
                return False
            if self._current is not None:
                self.retired.append(self._current)
            self._current, self._why = new, None
            self._paused = False
            self._changed.notify_all()
            return True

    def forget(self, generation: Generation[Prepared]) -> None:
        """It is closed."""
        with self._changed:
            self.retired.remove(generation)

    def pause(self) -> None:
        """Begin no request any more, until `swap`, `resume` or `fail`."""
        with self._changed:
            self._paused = True

    def drained(self, wait_s: float) -> bool:
        """Whether all requests have ended, after `wait_s` seconds at most."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy(), wait_s)

    def resume(self) -> None:
        """Go on with what there is."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def fail(self, why: ModelVaultError) -> None:
        """There is nothing to serve with."""
        with self._changed:
            if self._current is not None:
                self.retired.append(self._current)
            self._current, self._why = None, why
            self._paused = False
            self._changed.notify_all()

    def shut(self) -> None:
        """Begin no request any more, ever. Raises Conflict (`in_use`) while one runs."""
        with self._changed:
            if busy := self._busy():
                raise Conflict(
                    "in_use",
                    f"{self._name}: {busy} requests are using it",
                    "end them (leave their `with`), then close again",
                )
            self._closed = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Begin no request any more, ever; those that run keep what they have."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def everything(self) -> list[Generation[Prepared]]:
        """All that is loaded."""
        with self._changed:
            return [*self.retired, *([self._current] if self._current is not None else [])]

    def _busy(self) -> int:
        current = self._current.users if self._current is not None else 0
        return current + sum(each.users for each in self.retired)

    def _admitting(self) -> Generation[Prepared]:
        if self._closed:
            raise Conflict("closed", f"{self._name} isn't watched any more", "watch it again")
        if self._paused:
            raise Unavailable(
                "swapping",
                f"{self._name}: another version is being loaded in the place of the old one",
                "try again, or wait longer",
            )
        if self._current is None:
            why = self._why
            raise Unavailable(
                "nothing_loaded",
                f"{self._name}: no version could be loaded ({why.code if why else 'closed'})",
                "it is tried again and again; see what on_error was told",
            )
        self._current.model.check()
        return self._current


class Request:
    """One `with`. Contexts are copied, and copies outlive it: a task that was begun within a
    request, or whoever leaves in another context than it entered in (a framework's generators may).
    There it is seen to be over."""

    def __init__(self, generation: Generation[object]) -> None:
        self.generation = generation
        self.over = False


def hold(generation: Generation[Prepared]) -> Request:
    """From now on the running code holds it."""
    request = Request(generation)  # type: ignore[arg-type]
    _held.set((*_held.get(), request))
    return request


def unhold(request: Request) -> None:
    """It doesn't any more. To be called before `Serving.leave`."""
    request.over = True
    _held.set(tuple(each for each in _held.get() if not each.over))
