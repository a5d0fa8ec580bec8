"""One page in which the holder tells all others whether the model may still be used.

A look at it is a look at memory: no message is sent, and nobody has to be awake to answer. Until
when the lease holds stands there too, so a holder that was stopped or killed gives nobody a second
more. It holds two numbers of 64 bits, `until` (milliseconds of the boot clock) and the length of
what follows (0 while the model may be used): the error to raise, as a problem document.
"""

from __future__ import annotations

import msgspec

from modelvault.clock import Clock
from modelvault.errors import AccessDenied, ModelVaultError, Unavailable
from modelvault.sharing import mapping
from modelvault.sharing.mapping import PAGE, READ, SHARED
from modelvault.sharing.memory import Shared
from modelvault.wire import problem
from modelvault.wire.problem import Problem

_NUMBERS = 16


class WrittenPage:
    """The holder's. One thread writes."""

    def __init__(self) -> None:
        """Raises Unavailable: `no_shared_memory`, `insufficient_memory`."""
        self._memory = Shared(PAGE)
        self._memory.fill(0, PAGE, lambda _zeros: None)
        self._page = self._memory.writable(0, PAGE)
        self._numbers = self._page[:_NUMBERS].cast("Q")
        self.over = False

    @property
    def descriptor(self) -> int:
        """To be given to others."""
        return self._memory.give()

    def extend(self, until: int) -> None:
        """The model may be used until then."""
        if not self.over:
            self._numbers[0] = until  # one store: nobody sees half of it

    def end(self, error: ModelVaultError) -> None:
        """From now on every look raises `error`; the first one stands."""
        if not self.over:
            self.over = True
            document = _document(error)
            self._page[_NUMBERS : _NUMBERS + len(document)] = document
            self._numbers[1] = len(document)  # last: who sees that there is one sees all of it


class ReadPage:
    """Everybody else's: a Guard for the loader. Thread-safe, and good in a forked child."""

    def __init__(self, descriptor: int, clock: Clock) -> None:
        """`descriptor` stays the caller's. Raises Unavailable (`insufficient_memory`)."""
        pages = mapping.pages(descriptor, 0, PAGE, flags=SHARED, protection=READ)
        self._page = mapping.view(pages, 0, PAGE).toreadonly()
        self._numbers = self._page[:_NUMBERS].cast("Q")
        self._clock = clock

    @property
    def until(self) -> int:
        """Until when the model may be used by what the page says now, grace included; 0 once it may
        not."""
        return 0 if self._numbers[1] else self._numbers[0]

    @property
    def seconds_left(self) -> float:
        """For how long that still is."""
        return max(0, self.until - self._clock()) / 1000

    def check(self) -> None:
        """Raise what the holder says, or AccessDenied (`lease_expired`) when it says nothing any
        more."""
        length = self._numbers[1]
        if length:
            raise self._error(length)
        if self._clock() >= self._numbers[0]:
            raise AccessDenied(
                "lease_expired",
                "the lease of this model is over: whoever holds it has not renewed it",
                "look at the process that holds the lease, and start again",
            )

    def _error(self, length: int) -> ModelVaultError:
        try:
            text = bytes(self._page[_NUMBERS : _NUMBERS + length])
            return problem.error_of(msgspec.json.decode(text, type=Problem))
        except msgspec.MsgspecError:
            return Unavailable("host_unreadable", "the model's holder said what can't be read")


def _document(error: ModelVaultError) -> bytes:
    document = msgspec.json.encode(problem.of(error, 0, ""))
    if len(document) > PAGE - _NUMBERS:
        short = type(error)(error.code, error.message[:500], error.hint[:500])
        document = msgspec.json.encode(problem.of(short, 0, ""))
    return document
