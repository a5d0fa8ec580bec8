"""Files that are put together in memory while they are encrypted: no such file exists anywhere."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from bisect import bisect_right
from contextlib import nullcontext
from typing import Protocol
from zipfile import BadZipFile, ZipFile

from modelvault.client.content import Reading
from modelvault.client.saving_tensors import Tensor
from modelvault.errors import Conflict
from modelvault.weights.layout import Layout
from modelvault.weights.sniff import SNIFF_BYTES, sniff, sniff_zip

PLACE = "memory"


class _InMemory(ABC):
    """What both kinds have in common. Thread-safe; nothing is opened, so nothing is closed."""

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self.size = size
        self.place = PLACE
        self.state: tuple[int, ...] = ()  # another process finds none of it again

    def open(self) -> nullcontext[Reading]:
        """See Content."""
        return nullcontext(self)

    @abstractmethod
    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See Reading."""

    def read(self, offset: int, size: int) -> bytes:
        """See Reading."""
        data = bytearray(size)
        self.read_into(offset, memoryview(data))
        return bytes(data)

    @abstractmethod
    def format(self) -> str:
        """See Reading."""

    def check(self) -> None:  # noqa: B027  most of it can't change
        """See Reading."""


class WeightsFile(_InMemory):
    """A safetensors file of tensors that live elsewhere and aren't copied."""

    def __init__(self, path: str, layout: Layout, tensors: dict[str, Tensor]) -> None:
        """`tensors` by name: at least those of the layout."""
        super().__init__(path, layout.size)
        self._header = layout.header
        self._begins = layout.begins
        self._tensors = [tensors[row.name] for row in layout.rows]
        self._stamps = [tensor.stamp() for tensor in self._tensors]

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See Reading."""
        done = min(max(len(self._header) - offset, 0), len(buffer))
        buffer[:done] = self._header[offset : offset + done]
        at = max(bisect_right(self._begins, offset + done) - 1, 0)
        while done < len(buffer):
            tensor = self._tensors[at]
            begin = offset + done - self._begins[at]
            length = min(tensor.row.size - begin, len(buffer) - done)
            if length > 0:
                tensor.copy(begin, buffer[done : done + length])
                done += length
            at += 1

    def format(self) -> str:
        """See Reading."""
        return "safetensors"

    def check(self) -> None:
        """Raises Conflict (`file_changed`) when a tensor was written to meanwhile. numpy doesn't
        count, and neither does torch in inference mode: those mustn't be written to."""
        for tensor, stamp in zip(self._tensors, self._stamps, strict=True):
            if tensor.stamp() != stamp:
                raise Conflict(
                    "file_changed",
                    f"tensor {tensor.row.name!r} was changed while it was being saved",
                    "nothing was published: hold training still until save() returns, or use "
                    "begin_save(), which takes a copy first",
                )


class SmallFile(_InMemory):
    """A file that is given as bytes."""

    def __init__(self, path: str, data: bytes) -> None:
        super().__init__(path, len(data))
        self._data = data

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See Reading."""
        buffer[:] = memoryview(self._data)[offset : offset + len(buffer)]

    def format(self) -> str:
        """See Reading."""
        kind = sniff(self.path, self._data[:SNIFF_BYTES])
        if kind != "zip":
            return kind
        try:
            with ZipFile(io.BytesIO(self._data)) as archive:
                return sniff_zip(archive.namelist())
        except (BadZipFile, ValueError, NotImplementedError):
            return kind


class Held(Protocol):
    """Memory that a copy lies in (loader.memory.Region)."""

    def view(self, begin: int, end: int) -> memoryview: ...  # noqa: D102


class CopiedFile(_InMemory):
    """A file whose bytes were copied into memory that is wiped after it was sent."""

    def __init__(self, path: str, size: int, kind: str, memory: Held) -> None:
        super().__init__(path, size)
        self._kind = kind
        self._memory = memory

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See Reading."""
        with self._memory.view(offset, offset + len(buffer)) as view:
            buffer[:] = view

    def format(self) -> str:
        """See Reading."""
        return self._kind
