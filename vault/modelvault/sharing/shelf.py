"""What is shared: each file's memory, and who has it."""

from __future__ import annotations

import threading

import msgspec

from modelvault.clock import Clock
from modelvault.errors import Conflict, InvalidRequest, Unavailable
from modelvault.loader.model import Model
from modelvault.loader.resident import Resident
from modelvault.sharing import readers
from modelvault.sharing.memory import Shared, shared


class _Given(msgspec.Struct):
    """A file's memory; `takers` have it, `left_at` is when the last of them left."""

    resident: Resident
    memory: Shared
    takers: set[object]
    left_at: int = 0


class Shelf:
    """The files of one model that other processes were given. Thread-safe; nobody who wants one
    file waits for a store that another one comes from.

    Who takes a file is any object that stands for it; what nobody has for `linger_ms` milliseconds
    is given back, and decrypted anew should somebody ask again.
    """

    def __init__(self, model: Model, clock: Clock, linger_ms: int) -> None:
        self._model = model
        self._clock = clock
        self._linger_ms = linger_ms
        self._lock = threading.Lock()
        self._given: dict[str, _Given] = {}

    def take(self, path: str, taker: object) -> int:
        """The descriptor of a file's memory, which holds whatever was decrypted so far.

        Raises what any access to the file raises, and Unavailable (`no_shared_memory`).
        """
        resident = self._model.lend(path)
        while True:
            memory = resident.move(shared)  # waits for who reads this file
            if not isinstance(memory, Shared):
                raise Unavailable("no_shared_memory", f"{path} lies in memory of another kind")
            with self._lock:
                if not memory.alive:  # given back in between
                    continue
                given = self._given.get(path)
                if given is None or given.memory is not memory:  # the model let go of the other
                    given = self._given[path] = _Given(resident, memory, set())
                given.takers.add(taker)
                return memory.give()

    def need(self, path: str, begin: int, end: int, taker: object) -> None:
        """Have these bytes in memory that `taker` took.

        Raises InvalidRequest (`not_taken`, `bad_range`), Conflict (`memory_replaced`) where the
        model let go of that memory, and what any access to the file raises.
        """
        with self._lock:
            given = self._given.get(path)
            if given is None or taker not in given.takers:
                raise InvalidRequest("not_taken", f"the memory of {path!r} must be asked for first")
        if not 0 <= begin <= end <= given.resident.size:
            raise InvalidRequest(
                "bad_range", f"{path}: bytes {begin} to {end} of {given.resident.size}"
            )
        readers.stir()
        self._model.lend(path).need(begin, end)
        if given.resident.move(shared) is not given.memory:
            raise Conflict(
                "memory_replaced", f"{path}: the holder let go of this memory", "attach anew"
            )

    def leave(self, taker: object) -> None:
        """It has nothing any more."""
        with self._lock:
            for given in self._given.values():
                if taker in given.takers:
                    given.takers.discard(taker)
                    given.left_at = self._clock()

    def tidy(self) -> None:
        """Give back what nobody has had for long enough."""
        with self._lock:
            now = self._clock()
            for path, given in list(self._given.items()):
                lingers = now - given.left_at < self._linger_ms
                if given.takers or lingers or given.resident.busy:
                    continue
                if given.resident.release():
                    del self._given[path]

    def wipe(self) -> None:
        """Zero all that was given, whoever looks at it."""
        with self._lock:
            for given in self._given.values():
                given.memory.wipe()

    def clear(self) -> None:
        """Nothing is shared any more: what others have mapped is theirs alone."""
        with self._lock:
            self._given.clear()
