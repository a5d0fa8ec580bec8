"""Tensors on a device, through two buffers of guarded memory.

A device copies fastest from memory that the system may not move: with CUDA the buffers are
registered for that, and copies go on by themselves while the next part is decrypted into the other
buffer. Where registering isn't possible, and for other devices, each copy is waited for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from modelvault.loader.ahead import Ahead
from modelvault.loader.engines.torch import described, library
from modelvault.loader.lent import Lent
from modelvault.loader.memory import Region
from modelvault.loader.resident import Resident
from modelvault.loader.source import Fits
from modelvault.loader.spans import Span, spans
from modelvault.loader.streams import Pairs, check_window
from modelvault.weights.index import Located
from modelvault.weights.safetensors import TensorInfo

_BUFFERS = 2
_MOST = 64 << 20  # bytes of a buffer: enough for all cores, and for a device's copies to be fast
Place = Callable[[TensorInfo], Any]


class StagedTensors(Pairs):
    """Pairs of name and tensor, in the order of the files; empty tensors come first. Threads may
    share one: each pair goes to one of them. `close()`, the end of a `with`, and the model's close
    end it.

    Of plaintext, host memory holds two buffers and nothing else, however large a tensor is; they
    are wiped at the end. Copies are queued on the device's current stream.
    """

    def __init__(
        self,
        located: Iterable[Located],
        residents: Callable[[str], Resident],
        lent: Lent,
        place: Place,
        device: Any,  # noqa: ANN401
        fits: Fits,
        window: int,
    ) -> None:
        """`place` gives the contiguous tensor that a tensor of the file is copied into; both
        buffers together take at most `window` bytes, or two segments."""
        super().__init__(lent)
        wanted = list(located)
        self._residents = residents
        self._place = place
        payloads = [residents(path).payload for path in {path for path, _ in wanted}]
        self._size = max(min(_MOST, check_window(window) // _BUFFERS), *payloads, 1)
        fits(_BUFFERS * self._size)
        self._parts = self._cut(spans(one for one in wanted if one[1].size))
        self._free = deque(_Buffer(self._size, device) for _ in range(_BUFFERS))
        self._ahead: tuple[_Part, _Buffer, Ahead[None]] | None = None
        self._begun: dict[str, tuple[Any, Any]] = {}
        self._ready = deque((info.name, place(info)) for _, info in wanted if not info.size)

    def _cut(self, found: list[Span]) -> Iterator[_Part]:
        for span in found:
            resident = self._residents(span.path)
            payload = resident.payload
            stride = self._size // payload * payload
            last = min(-(-span.end // payload) * payload, resident.size)
            for begin in range(span.begin - span.begin % payload, last, stride):
                yield _Part(span, begin, min(begin + stride, last))

    def _advance(self) -> bool:
        self._ahead = self._ahead or self._start()
        if self._ahead is None:
            self._let_go()
            return False
        part, buffer, reading = self._ahead
        reading.result()
        self._ahead = None
        self._free.append(buffer)
        self._ahead = self._start()
        for info in part.tensors:
            self._copy(info, part, buffer)
        buffer.sent()
        return True

    def _start(self) -> tuple[_Part, _Buffer, Ahead[None]] | None:
        part = next(self._parts, None)
        if part is None:
            return None
        buffer = self._free.popleft()  # the one that was sent longer ago
        buffer.wait()
        resident = self._residents(part.path)
        return part, buffer, Ahead(lambda: buffer.fill(resident, part.begin, part.end))

    def _copy(self, info: TensorInfo, part: _Part, buffer: _Buffer) -> None:
        """Copy what of the tensor is in this part; with its last byte it is ready."""
        if info.name not in self._begun:
            target = self._place(info)
            self._begun[info.name] = target, bytes_of(target)
        target, out = self._begun[info.name]
        begin, end = max(info.begin, part.begin), min(info.end, part.end)
        buffer.send(begin - part.begin, out[begin - info.begin : end - info.begin])
        if end == info.end:
            del self._begun[info.name]
            self._ready.append((info.name, target))

    def _let_go(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead[2].wait()  # else its thread would write to what is wiped here
            self._free.append(ahead[1])
        self._parts = iter(())
        self._begun.clear()
        self._ready.clear()
        while self._free:
            self._free.pop().close()


class _Part:
    """Whole segments of one file, `begin` to `end`, and the tensors that have bytes in them."""

    def __init__(self, span: Span, begin: int, end: int) -> None:
        self.path = span.path
        self.begin = begin
        self.end = end
        self.tensors = [info for info in span.tensors if info.begin < end and info.end > begin]


class _Buffer:
    """Memory that a device copies from, known to it where that is possible."""

    def __init__(self, size: int, device: Any) -> None:  # noqa: ANN401
        self._region = Region(size)
        self._memory = library().frombuffer(self._region.writable(0, size), dtype=library().uint8)
        self._device = device
        self._pinned = device.type == "cuda" and _register(self._memory)
        self._arrived: Any = None

    def fill(self, resident: Resident, begin: int, end: int) -> None:
        """Bytes `begin` to `end` of a file."""
        with self._region.writable(0, end - begin) as out:
            resident.fill(out, begin)

    def send(self, begin: int, out: Any) -> None:  # noqa: ANN401
        """Copy what begins at `begin` into all of `out`, bytes of a tensor."""
        out.copy_(self._memory[begin : begin + len(out)], non_blocking=self._pinned)

    def sent(self) -> None:
        """All that is to be copied from what is in here has been told to the device."""
        if self._pinned:
            self._arrived = library().cuda.Event()
            self._arrived.record(library().cuda.current_stream(self._device))

    def wait(self) -> None:
        """Until all copies have arrived."""
        arrived, self._arrived = self._arrived, None
        if arrived is not None:
            arrived.synchronize()

    def close(self) -> None:
        """Wipe."""
        self.wait()
        if self._pinned:
            library().cuda.cudart().cudaHostUnregister(self._memory.data_ptr())
        self._memory = None
        self._region.abandon()


def empty_on(device: Any) -> Place:  # noqa: ANN401
    """Makes the tensors on `device` that those of a file are copied into."""

    def place(info: TensorInfo) -> Any:  # noqa: ANN401
        dtype, shape = described(info)
        return library().empty(shape, dtype=dtype, device=device)

    return place


def bytes_of(tensor: Any) -> Any:  # noqa: ANN401
    """A contiguous tensor's memory as a flat tensor of uint8."""
    return tensor.detach().reshape(-1).view(library().uint8)


def _register(memory: Any) -> bool:  # noqa: ANN401
    runtime = library().cuda.cudart()
    told = runtime.cudaHostRegister(memory.data_ptr(), memory.numel(), 0)
    return bool(told == runtime.cudaError.success)
