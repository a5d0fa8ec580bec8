"""What the watching job is told, and how often."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from modelvault.errors import ModelVaultError

_LOG = logging.getLogger("modelvault.watch")

OnChange = Callable[[str, str], None]
OnError = Callable[[Exception], None]


class Telling:
    """Calls the job back, and writes the log. Nothing that a callback raises comes out."""

    def __init__(self, name: str, on_change: OnChange | None, on_error: OnError | None) -> None:
        """`name` is what is followed."""
        self._name = name
        self._on_change = on_change
        self._on_error = on_error
        self._last: tuple[str, str] | None = None
        self._outage = False

    def change(self, old: str, new: str) -> None:
        """Another version serves."""
        self.well()
        _LOG.info("%s: %s serves, and no longer %s", self._name, new, old or "nothing")
        if self._on_change is not None:
            self._call(partial(self._on_change, old, new))

    def error(self, error: Exception) -> None:
        """Once for the same trouble, until all is well."""
        # The text of somebody else's exception may hold anything: it isn't for a log.
        message = error.message if isinstance(error, ModelVaultError) else type(error).__name__
        if (type(error).__name__, message) == self._last:
            return
        self._last = (type(error).__name__, message)
        _LOG.warning("%s: %s", self._name, message)
        if self._on_error is not None:
            self._call(partial(self._on_error, error))

    def outage(self, error: ModelVaultError) -> None:
        """No answer is no change: the log says it once, and nobody is called."""
        if not self._outage:
            self._outage = True
            _LOG.warning("%s: can't look where it points: %s", self._name, error.message)

    def answered(self) -> None:
        """The broker can be reached."""
        self._outage = False

    def well(self) -> None:
        """What serves is what is meant."""
        self._last = None

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except (Exception, SystemExit) as error:  # noqa: BLE001  theirs; the watch goes on
            _LOG.warning("%s: a callback failed: %s", self._name, type(error).__name__)
