"""`Live`: what a serving loop asks for the version of the moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Generic, Self

from modelvault.client.watching import generation as generations
from modelvault.client.watching.follower import Follower
from modelvault.client.watching.generation import Generation, Prepared
from modelvault.errors import Conflict, ModelVaultError
from modelvault.loader.model import Model


class Live(Generic[Prepared]):
    """The version that a reference means, now and after each move; `Session.watch` makes it.

    Any number of threads, and tasks of an event loop, may use it at once. A request is one `with`:
    all of it sees one version, also in a `with` within it. A version that was swapped is wiped when
    its last request has ended and nothing looks at its memory any more.
    """

    def __init__(self, follower: Follower[Prepared], ended: Callable[[Live[Any]], None]) -> None:
        """Take over a follower. `ended` is told when all is closed."""
        self._follower = follower
        self._ended = ended
        self._serving = follower.serving

    @property
    def name(self) -> str:
        """The exact reference of the version that serves, `[tenant/]model@version`; empty where
        none does."""
        current = self._serving.current
        return "" if current is None else current.model.name

    @property
    def ready(self) -> bool:
        """Whether a request would be served now, for readiness probes."""
        return self._serving.ready

    @contextmanager
    def model(self, wait_s: float | None = None) -> Iterator[Model]:
        """One request's model. Don't close it, and keep nothing of it beyond the `with`.

        While a version is loaded in the place of another, this waits, at most `wait_s` seconds.
        Raises Unavailable (`swapping`, `nothing_loaded`), AccessDenied once the version was
        revoked or its lease ran out, Conflict (`closed`).
        """
        with self._request(wait_s) as generation:
            yield generation.model

    @contextmanager
    def prepared(self, wait_s: float | None = None) -> Iterator[Prepared]:
        """One request's: what `prepare` made of the model. As `model` else."""
        with self._request(wait_s) as generation:
            yield generation.prepared  # type: ignore[misc]  # it was prepared before it served

    def look(self) -> None:
        """Look now where the reference points, for whoever is told that a tag has moved. Returns at
        once."""
        self._follower.look()

    def close(self) -> None:
        """Follow no longer, wipe and end the leases. Idempotent.

        Raises Conflict: `in_use` while a request runs (all goes on then), `views_alive` while
        something looks at the memory (no further request begins then; a later close works).
        """
        self._serving.shut()
        self._follower.stop()
        for generation in self._serving.everything():
            if not generation.close():
                generation.model.close()  # says what is in use
        self._ended(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        # The error matters more than requests that run and views that its frames hold.
        self._serving.abandon()
        self._follower.stop()
        for generation in self._serving.everything():
            generation.let_go()
            try:
                generation.model.__exit__(kind, error, trace)
            except (ModelVaultError, Conflict) as second:
                error.add_note(f"closing {self.name} failed as well: {second}")
        self._ended(self)

    def __repr__(self) -> str:
        return f"<Live {self.name}>"

    @contextmanager
    def _request(self, wait_s: float | None) -> Iterator[Generation[Prepared]]:
        generation = self._serving.enter(wait_s)
        request = generations.hold(generation)
        try:
            yield generation
        finally:
            generations.unhold(request)
            if self._serving.leave(generation):
                self._follower.look()
