"""Tensors one after the other, through a bounded window of memory."""

from __future__ import annotations

import gc
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Protocol, Self

from modelvault.errors import Conflict, InvalidRequest
from modelvault.loader.ahead import Ahead
from modelvault.loader.lent import Lent
from modelvault.loader.memory import Region
from modelvault.loader.resident import Resident
from modelvault.loader.seam import Seam
from modelvault.loader.source import Fits
from modelvault.loader.spans import Span, spans
from modelvault.weights.index import Located
from modelvault.weights.safetensors import TensorInfo

WINDOW = 1 << 30
_LEAST = 1 << 20
_FIRST = 4 << 20  # the first tensor isn't kept waiting for many others
_TOGETHER = 64 << 20  # neighbours are decrypted together up to here: enough for all cores

Tensors = deque[tuple[str, Any]]
View = Callable[[TensorInfo, memoryview], Any]


def check_window(window: int) -> int:
    """A window's size in bytes. InvalidRequest (`bad_window`) for one that holds nothing."""
    if window < _LEAST:
        raise InvalidRequest(
            "bad_window", f"a window of {window} bytes; the least is {_LEAST:,}", "leave it out"
        )
    return window


class Stream(Protocol):
    """What `iter_tensors` gives: pairs of name and tensor, until it is closed."""

    def __iter__(self) -> Self:
        """Itself."""
        ...

    def __next__(self) -> tuple[str, Any]:
        """The next pair."""
        ...

    def close(self) -> None:
        """Let go of what wasn't asked for yet."""
        ...

    def __enter__(self) -> Self:
        """Itself."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        ...


class Pairs:
    """What streams have in common. A stream that was ended before it was through says so: half of
    a model must not pass for the whole."""

    def __init__(self, lent: Lent) -> None:
        self._lent = lent
        self._ready: Tensors = deque()
        self._through = False
        self._ended = False
        self._lock = threading.Lock()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[str, Any]:
        """Raises what `Model.state_dict` raises; Conflict (`closed`) when it was ended before, and
        (`window_full`) when tensors that are still in use leave no room for the next."""
        self._lent.check()  # before the lock, which a thread of a forked child's parent may hold
        with self._lock:
            self._lent.check()
            while not self._ready:
                self._more()
            return self._ready.popleft()

    def close(self) -> None:
        """Let go of what wasn't asked for yet. What was handed out stays as it is."""
        self._ended = True
        if not self._lent.forked:
            with self._lock:
                self._let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _more(self) -> None:
        if self._through:
            raise StopIteration
        if self._ended:
            raise Conflict(
                "closed", "this stream of tensors was ended before it was through", "begin anew"
            )
        self._make_room()
        try:
            self._through = not self._advance()
        except BaseException:
            self._ended = True
            self._let_go()  # waits: a thread may still be writing when Ctrl-C comes
            raise

    def _make_room(self) -> None:
        """Raises Conflict (`window_full`); asking again is fine."""

    def _advance(self) -> bool:
        """Put what comes next into `_ready`; False when there is nothing."""
        raise NotImplementedError

    def _let_go(self) -> None:
        """Forget and wipe all that wasn't handed out. Twice is fine."""
        raise NotImplementedError


class TensorStream(Pairs):
    """Pairs of name and tensor, in the order of the files. Threads may share one: each pair goes
    to one of them. `close()`, the end of a `with`, and the model's close end it.

    Each tensor has memory of its own (small neighbours share some), guarded as the model's, which
    is wiped when the last reference to it is dropped; nothing is reused under a reader. While the
    consumer works, a thread decrypts what comes next.

    The memory of all tensors that live, and of those that are decrypted ahead, is at most the
    window; tensors of more than a quarter of it come alone, and beside them there is at most the
    one that came before.
    """

    def __init__(
        self,
        located: Iterable[Located],
        residents: Callable[[str], Resident],
        lent: Lent,
        view: View,
        fits: Fits,
        window: int,
    ) -> None:
        super().__init__(lent)
        self._most = check_window(window) // 4
        self._window = window
        self._residents = residents
        self._view = view
        self._fits = fits
        together = min(_TOGETHER, self._most)
        self._spans: Iterator[Span] = iter(spans(located, together, _FIRST))
        self._next: Span | None = next(self._spans, None)
        self._ahead: Ahead[Tensors] | None = None
        self._regions: list[Region] = []
        self._newest: Region | None = None
        self._seam: Seam | None = None

    def _let_go(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.wait()
        self._ready.clear()
        self._next = None
        if self._seam is not None:
            self._seam.close()
            self._seam = None

    def _make_room(self) -> None:
        span = self._next
        if self._ahead is None and span is not None and not self._has_room(span):
            gc.collect()  # tensors in cycles are held by nobody
            if not self._has_room(span):
                raise self._full()

    def _advance(self) -> bool:
        """And begin with what comes after it, if there is room."""
        if self._ahead is None:
            if self._next is None:
                self._let_go()
                return False
            self._ahead = self._start(self._next)
        self._ready = self._ahead.result()
        self._ahead = None
        if self._next is not None and self._held() + self._next.size <= self._window:
            self._ahead = self._start(self._next)
        return True

    def _has_room(self, span: Span) -> bool:
        # A loop's variable still holds the tensor before: that isn't the consumer's to help.
        before = self._newest.size if self._newest is not None and self._newest.alive else 0
        return self._held() - before + min(span.size, self._most) <= self._window

    def _held(self) -> int:
        self._regions = [region for region in self._regions if region.alive]
        return sum(region.size for region in self._regions)

    def _start(self, span: Span) -> Ahead[Tensors]:
        self._next = next(self._spans, None)
        return Ahead(lambda: self._read(span))

    def _read(self, span: Span) -> Tensors:
        seam = self._seam_of(span.path)
        first, last = seam.cover(span.begin, span.end)
        self._fits(last - first)
        with self._lent.lend(span.path, last - first) as region:
            with region.writable(0, region.size) as out:
                seam.fill(first, out)
            memory = region.writable(0, region.size)
            self._regions.append(region)
            self._newest = region
            return deque(
                (info.name, self._view(info, memory[info.begin - first : info.end - first]))
                for info in span.tensors
            )

    def _seam_of(self, path: str) -> Seam:
        if self._seam is None or self._seam.resident.path != path:
            if self._seam is not None:
                self._seam.close()
            self._seam = Seam(self._residents(path))
        return self._seam

    def _full(self) -> Conflict:
        return Conflict(
            "window_full",
            f"tensors of {self._held() >> 20} MiB are still in use; the window is "
            f"{self._window >> 20} MiB",
            "drop each tensor before you ask for the next one (clone() what is to stay), name a "
            "larger window, or take state_dict() for all at once",
        )
