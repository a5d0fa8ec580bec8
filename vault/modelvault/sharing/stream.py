"""Tensors in a stream, over memory that is shared: what comes next is decrypted meanwhile."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from modelvault.errors import Conflict
from modelvault.loader.ahead import Ahead
from modelvault.loader.resident import Resident
from modelvault.loader.spans import Span, spans
from modelvault.weights.index import Located
from modelvault.weights.safetensors import TensorInfo

_TOGETHER = 64 << 20  # neighbours are asked for together up to here: enough for all cores


class SharedStream:
    """Pairs of name and tensor, in the order of the files. Threads may share one: each pair goes
    to one of them. `close()` and the end of a `with` end it.

    The tensors are views of the shared memory: nothing is copied, and none has to be dropped. A
    stream that was ended before it was through says so: half of a model isn't the whole.
    """

    def __init__(
        self,
        located: Iterable[Located],
        residents: Callable[[str], Resident],
        view: Callable[[TensorInfo, memoryview], Any],
        check: Callable[[], None],
    ) -> None:
        """`check` raises when nothing may be had any more."""
        self._residents = residents
        self._view = view
        self._check = check
        self._spans = iter(spans(located, _TOGETHER))
        self._ahead: Ahead[Span | None] | None = self._begin()
        self._ready: deque[tuple[str, Any]] = deque()
        self._through = False
        self._lock = threading.Lock()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[str, Any]:
        """Raises what `Model.state_dict` raises; Conflict (`closed`) when it was ended before."""
        with self._lock:
            self._check()
            while not self._ready:
                self._more()
            return self._ready.popleft()

    def close(self) -> None:
        """Let go of what wasn't asked for yet. What was handed out stays as it is."""
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

    def _begin(self) -> Ahead[Span | None]:
        span = next(self._spans, None)

        def fetch() -> Span | None:
            if span is not None:
                self._residents(span.path).need(span.begin, span.end)
            return span

        return Ahead(fetch)

    def _let_go(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.wait()
        self._ready.clear()

    def _more(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is None and not self._through:
            raise Conflict(
                "closed", "this stream of tensors was ended before it was through", "begin anew"
            )
        span = None if ahead is None else ahead.result()
        if span is None:
            self._through = True
            raise StopIteration
        self._ahead = self._begin()
        try:
            self._put(span)
        except BaseException:
            self._let_go()
            raise

    def _put(self, span: Span) -> None:
        memory = self._residents(span.path).shared(span.begin, span.end)
        for info in span.tensors:
            begin = info.begin - span.begin
            tensor = self._view(info, memory[begin : begin + info.size])
            self._ready.append((info.name, tensor))
