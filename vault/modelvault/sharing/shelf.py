"""What is shared: each file's memory, and who has it."""

from __future__ import annotations

import threading

from modelvault.clock import Clock
from modelvault.errors import InvalidRequest, Unavailable
from modelvault.loader.model import Model
from modelvault.loader.resident import Resident
from modelvault.sharing.memory import Shared, shared


class Shelf:
    """The files of one model that other processes were given. Thread-safe.

    Who takes a file is any object that stands for it; what nobody has for `linger_ms` milliseconds
    is wiped and given back, and decrypted anew should somebody ask again.
    """

    def __init__(self, model: Model, clock: Clock, linger_ms: int) -> None:
        self._model = model
        self._clock = clock
        self._linger_ms = linger_ms
        self._lock = threading.Lock()
        self._takers: dict[str, set[object]] = {}
        self._left_at: dict[str, int] = {}
        self._residents: dict[str, Resident] = {}

    def take(self, path: str, taker: object) -> int:
        """The descriptor of a file's memory, which holds whatever was decrypted so far.

        Raises what any access to the file raises, and Unavailable (`no_shared_memory`).
        """
        resident = self._model.lend(path)
        with self._lock:
            memory = resident.move(shared)
            if not isinstance(memory, Shared):
                raise Unavailable("no_shared_memory", f"{path} lives in memory of another kind")
            self._residents[path] = resident
            self._takers.setdefault(path, set()).add(taker)
            self._left_at.pop(path, None)
            return memory.give()

    def need(self, path: str, begin: int, end: int, taker: object) -> None:
        """Have these bytes in memory that `taker` took.

        Raises InvalidRequest: `not_taken`, `bad_range`; and what any access to the file raises.
        """
        with self._lock:
            resident = self._residents.get(path)
            if resident is None or taker not in self._takers[path]:
                raise InvalidRequest("not_taken", f"the memory of {path!r} must be asked for first")
        if not 0 <= begin <= end <= resident.size:
            raise InvalidRequest("bad_range", f"{path}: bytes {begin} to {end} of {resident.size}")
        self._model.lend(path).need(begin, end)

    def leave(self, taker: object) -> None:
        """It has nothing any more."""
        with self._lock:
            for path, takers in self._takers.items():
                if taker in takers:
                    takers.discard(taker)
                    if not takers:
                        self._left_at[path] = self._clock()

    def tidy(self) -> None:
        """Give back what nobody has had for long enough."""
        with self._lock:
            now = self._clock()
            for path, since in list(self._left_at.items()):
                if now - since >= self._linger_ms and self._residents[path].release():
                    del self._left_at[path], self._takers[path], self._residents[path]
