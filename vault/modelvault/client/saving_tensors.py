"""Tensors that are saved, read where they lie: any part of one, without a copy of the rest.

A contiguous tensor in this machine's memory is read as bytes. Of any other (a transposed view, one
on a device, another byte order) just the rows that are wanted are copied, straight to where they
are encrypted: what a save needs beside the tensors is bounded by that buffer.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol

from modelvault.errors import InvalidRequest
from modelvault.weights.layout import Row


class Engine(Protocol):
    """What is different from framework to framework. `array` is one of its arrays."""

    def flat(self, array: Any) -> memoryview | None:  # noqa: ANN401
        """Its bytes in C order, little-endian, if they lie so in this machine's memory."""
        ...

    def copy(self, array: Any, out: memoryview) -> None:  # noqa: ANN401
        """Write the whole of it, in C order and little-endian, into `out`, which is as long."""
        ...


class Tensor:
    """One tensor of a state: what the file's header says of it, and its bytes. Thread-safe.

    `known` is equal for two tensors exactly where they are one: the same memory, seen alike.
    `stamp` differs once a framework that counts changes has changed it; None where none is counted.
    """

    def __init__(
        self,
        row: Row,
        array: Any,  # noqa: ANN401
        engine: Engine,
        known: Hashable,
        item: int,
    ) -> None:
        """`item` is the size of an element in bytes; the array's last axis may hold several."""
        self.row = row
        self.known = known
        self._array = array
        self._engine = engine
        self._item = item

    def stamp(self) -> Hashable:
        """How often it was changed, as far as anybody counts, and where it lies."""
        try:
            return int(self._array._version), int(self._array.data_ptr())
        except (AttributeError, RuntimeError):  # numpy's; torch's of inference mode
            return None

    def copy(self, begin: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `begin` on."""
        if out:
            self._copy(self._array, self.row.size, begin, out)

    def _copy(self, array: Any, size: int, begin: int, out: memoryview) -> None:  # noqa: ANN401
        """Bytes of `array`, which has `size`, from `begin` on: whole rows at once, and the parts of
        rows at both ends one level deeper."""
        flat = self._engine.flat(array)
        if flat is not None:
            out[:] = flat[begin : begin + len(out)]
            return
        if begin == 0 and len(out) == size:
            self._engine.copy(array, out)
            return
        if size == self._item:  # a part of one element
            whole = bytearray(size)
            self._engine.copy(array, memoryview(whole))
            out[:] = whole[begin : begin + len(out)]
            return
        row = size // array.shape[0]
        done = 0
        while done < len(out):
            at, within = divmod(begin + done, row)
            rows = (len(out) - done) // row if within == 0 else 0
            if rows:
                self._engine.copy(array[at : at + rows], out[done : done + rows * row])
                done += rows * row
            else:
                length = min(row - within, len(out) - done)
                one = array[at : at + 1].reshape(tuple(array.shape[1:]))
                self._copy(one, row, within, out[done : done + length])
                done += length


def tensor_of(name: str, value: object) -> Tensor:
    """The tensor that is to be called `name`: a torch tensor or a numpy array.

    Raises InvalidRequest: `not_a_tensor`, `unsupported_dtype`, `unsupported_tensor`.
    """
    kind = type(value)
    roots = {base.__module__.partition(".")[0] for base in kind.__mro__}
    if "torch" in roots and hasattr(value, "untyped_storage"):
        from modelvault.client import saving_torch

        return saving_torch.tensor(name, value)
    if "numpy" in roots and hasattr(value, "__array_interface__"):
        from modelvault.client import saving_numpy

        return saving_numpy.tensor(name, value)
    raise InvalidRequest(
        "not_a_tensor",
        f"{name!r} is of the type {kind.__name__!r}, which is neither a torch tensor nor a numpy "
        "array",
        "save tensors alone; plain values (steps, rates, names) go through "
        "modelvault.integrations.training.flatten, or into files={...} as bytes",
    )


def unsupported_dtype(name: str, dtype: object) -> InvalidRequest:
    """There is no such type of elements in a safetensors file."""
    return InvalidRequest(
        "unsupported_dtype",
        f"tensor {name!r} is {dtype}, which safetensors has no type for",
        "save it as another type: its bytes (uint8), or its real and imaginary parts",
    )


def unsupported_tensor(name: str, what: str, hint: str) -> InvalidRequest:
    """A tensor whose bytes don't lie in one piece of memory."""
    return InvalidRequest("unsupported_tensor", f"tensor {name!r} {what}", hint)
