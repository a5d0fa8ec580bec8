"""The thread that looks where a tag points, loads what it means, and swaps."""

from __future__ import annotations

import logging
import secrets
import threading
import traceback
from collections.abc import Callable
from typing import Generic, Literal

import msgspec

from modelvault.client.ending import OnRevoked
from modelvault.client.watching import attempts
from modelvault.client.watching.attempts import Attempts
from modelvault.client.watching.generation import Generation, Prepared, Serving
from modelvault.client.watching.telling import OnChange, OnError, Telling
from modelvault.clock import Clock
from modelvault.errors import AccessDenied, Conflict, ModelVaultError, Unavailable
from modelvault.loader.model import Model

_LOG = logging.getLogger("modelvault.watch")
_JITTER = 5  # a fifth of the interval, so that a fleet doesn't ask in step
_VIEWS_MS = 10_000
_SOON_S = 1.0  # between two tries to close what is still looked at
_PATIENCE_S = 1.0  # between two looks whether a drain has been called off
_JOIN_S = 5.0

Swap = Literal["beside", "in_place"]


class Watched(msgspec.Struct, Generic[Prepared], frozen=True):
    """What is followed and how. `look` gives the number of the version that is meant now, `load`
    takes a lease of it; `prepare` brings into memory what requests need."""

    name: str
    look: Callable[[], int]
    load: Callable[[OnRevoked], Model]
    prepare: Callable[[Model], Prepared]
    swap: Swap
    every_s: float
    clock: Clock
    on_change: OnChange | None
    on_error: OnError | None


class Follower(Generic[Prepared]):
    """Loads the first version in the caller's thread; `start` begins a thread that follows."""

    def __init__(self, watched: Watched[Prepared]) -> None:
        """Raises what a load raises, and what `prepare` does."""
        self._watched = watched
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._attempts = Attempts()
        self._telling = Telling(watched.name, watched.on_change, watched.on_error)
        self._loading: Model | None = None
        first = self._leased()
        self._prepare(first)
        self.serving: Serving[Prepared] = Serving(watched.name, first)
        self._thread = threading.Thread(target=self._run, name="modelvault-watch", daemon=True)

    def start(self) -> None:
        """Begin to follow. Raises Unavailable (`no_thread`)."""
        try:
            self._thread.start()
        except RuntimeError:
            raise Unavailable(
                "no_thread",
                "the system gives this process no further thread, and watching needs one",
                "raise its limit on processes (ulimit -u, pids.max) or on memory",
            ) from None

    def look(self) -> None:
        """Look now and not when it is time."""
        self._wake.set()

    def stop(self) -> None:
        """Follow no longer. A load that runs is cancelled. Idempotent."""
        self._closing.set()
        self._wake.set()
        loading = self._loading
        if loading is not None:
            try:
                loading.close()
            except Conflict:  # it is being prepared: the thread closes it afterwards
                _LOG.info("%s: a version is still being prepared", self._watched.name)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(_JOIN_S)

    def close_retired(self) -> bool:
        """Close what serves no request any more; whether all of it could be."""
        for generation in list(self.serving.retired):
            if generation.users:
                continue
            if generation.close():
                self.serving.forget(generation)
            elif generation.idle_since is None:
                generation.idle_since = self._watched.clock()
        return not self.serving.retired

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._turn()
            except (Exception, SystemExit) as error:  # noqa: BLE001  no surprise may end the watch
                self._telling.error(_told(error))
            self._wake.wait(self._pause_s())
            self._wake.clear()

    def _pause_s(self) -> float:
        every = self._watched.every_s
        if self.serving.retired:
            return min(_SOON_S, every)
        spread = max(1, int(every * 1000) // _JITTER)
        return every - every / (2 * _JITTER) + secrets.randbelow(spread) / 1000

    def _turn(self) -> None:
        gone = self.close_retired()
        current = self.serving.current
        if current is not None and current.ended is not None:
            self._telling.error(_over(self._watched.name, current.ended))
            if not current.users:
                current.let_go()
        wanted = self._look()
        if wanted is None or self._closing.is_set():
            return
        if current is not None and current.version == wanted and current.ended is None:
            self._telling.well()
            self._attempts = Attempts()
            return
        if not attempts.due(self._attempts, wanted, self._watched.clock()):
            return
        if not gone:
            self._tell_of_views()
            return
        self._replace(wanted)

    def _look(self) -> int | None:
        try:
            wanted = self._watched.look()
        except Unavailable as error:  # no answer is no change
            self._telling.outage(error)
            return None
        except ModelVaultError as error:
            self._telling.error(error)
            return None
        self._telling.answered()
        return wanted

    def _replace(self, wanted: int) -> None:
        before = self.serving.current
        name = "" if before is None else before.model.name
        try:
            done = self._swapped()
        except (Exception, SystemExit) as error:  # noqa: BLE001  also what `prepare` raises
            every_ms = int(self._watched.every_s * 1000)
            now = self._watched.clock()
            self._attempts = attempts.failed(self._attempts, wanted, now, every_ms)
            if not self._closing.is_set():
                self._telling.error(_told(error))
            return
        self._attempts = Attempts()
        if done is not None:
            self.close_retired()
            self._telling.change(name, done)

    def _swapped(self) -> str | None:
        """The name of the version that serves from now on; None where that is the old one."""
        old = self.serving.current
        new = self._leased()
        if old is not None and old.ended is None and old.version == new.version:
            new.close()  # the tag has moved back meanwhile
            return None
        if old is None or self._watched.swap == "beside":
            self._prepare(new)
            return self._given(new)
        return self._in_place(old, new)

    def _given(self, new: Generation[Prepared]) -> str | None:
        """Its name, when it is given to requests; None where there are to be none any more."""
        if self.serving.swap(new):
            return new.model.name
        new.close()
        return None

    def _in_place(self, old: Generation[Prepared], new: Generation[Prepared]) -> str | None:
        """The memory of the old one is gone before the first byte of the new one is decrypted."""
        self.serving.pause()
        try:
            while not self.serving.drained(_PATIENCE_S):
                if self._closing.is_set():
                    new.close()
                    return None
            old.let_go()
            try:
                _release(old)
                self._prepare(new)
            except BaseException:
                new.close()
                self._back(old)
                raise
            return self._given(new)
        finally:
            self.serving.resume()

    def _back(self, old: Generation[Prepared]) -> None:
        """The new one can't be had: the old one's lease is still there, and its bytes come anew."""
        if self._closing.is_set():
            return
        if old.ended is None:
            try:
                old.prepared = self._prepared(old.model)
            except (Exception, SystemExit) as error:  # noqa: BLE001
                self.serving.fail(_as_ours(error))
                self._telling.error(_told(error))

    def _leased(self) -> Generation[Prepared]:
        generation: Generation[Prepared] = Generation()

        def ended(reason: str) -> None:
            generation.ended = reason
            self._wake.set()

        generation.model = self._watched.load(ended)
        return generation

    def _prepare(self, generation: Generation[Prepared]) -> None:
        """Prepare it, or close it."""
        model = generation.model
        self._loading = model
        try:
            generation.prepared = self._prepared(model)
        except BaseException as error:
            model.__exit__(type(error), error, error.__traceback__)
            raise
        finally:
            self._loading = None

    def _prepared(self, model: Model) -> Prepared:
        try:
            return self._watched.prepare(model)
        except BaseException as error:
            # Its frames hold views of what was decrypted; whoever keeps the error mustn't.
            traceback.clear_frames(error.__traceback__)
            raise

    def _tell_of_views(self) -> None:
        """Not at once: a thread's own names may hold views until its next request."""
        since = self._watched.clock() - _VIEWS_MS
        left = [each for each in self.serving.retired if (each.idle_since or since + 1) <= since]
        if not left:
            return
        names = ", ".join(each.model.name for each in left)
        self._telling.error(
            Conflict(
                "views_alive",
                f"{self._watched.name}: memory of {names} is still in use after its last request,"
                " and a third version isn't loaded beside two",
                "drop the arrays, tensors and modules that a request took (`del`) when it ends",
            )
        )


def _release(old: Generation[Prepared]) -> None:
    """Its memory, and not its lease."""
    import gc

    try:
        old.model.release()
    except Conflict:
        gc.collect()
        old.model.release()


def _over(name: str, reason: str) -> AccessDenied:
    return AccessDenied(
        reason,
        f"{name}: the lease of the version that served is over ({reason})",
        "move the tag to a version that may be loaded, or ask the model's owner",
    )


def _told(error: BaseException) -> Exception:
    """What `on_error` is told: `sys.exit()` ends a thread without a word, and isn't to end this."""
    return error if isinstance(error, Exception) else _as_ours(error)


def _as_ours(error: BaseException) -> ModelVaultError:
    if isinstance(error, ModelVaultError):
        return error
    return Unavailable(
        "prepare_failed",
        f"`prepare` raised {type(error).__name__}",
        "mend `prepare`, or move the tag to a version that it takes",
    )
