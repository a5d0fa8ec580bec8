"""Parts of stored tensors for a process that loads: each segment is decrypted about once.

Large tensors are read in parts, which have memory of their own and let go of it at once. Many small
ones share a segment: they are read in the order of the file, and what they lie in is kept until so
much of it has come together.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from modelvault.errors import NotFound
from modelvault.loader.engines import torch as engine
from modelvault.loader.model import Model
from modelvault.weights.safetensors import BITS, TensorInfo

KEPT = 64 << 20  # bytes of segments with small tensors


class Parts:
    """One file of a version, read by one thread from front to back; what it kept is wiped."""

    def __init__(self, model: Model, path: str) -> None:
        """Raises what `Model.tensor_infos` raises."""
        self._model = model
        self._path = path
        self.infos: Mapping[str, TensorInfo] = model.tensor_infos(path)
        self._resident = model.lend(path)
        self._kept: set[int] = set()  # segments, by their numbers

    def info(self, name: str) -> TensorInfo:
        """Raises NotFound (`no_tensor`)."""
        found = self.infos.get(name)
        if found is None:
            raise NotFound(
                "no_tensor", f"{self._path} has no tensor {name!r}", "save the checkpoint anew"
            )
        return found

    def part(self, name: str, box: tuple[slice, ...]) -> Any:  # noqa: ANN401
        """A box of a tensor, as a torch tensor that is used before the next one is asked for."""
        info = self.info(name)
        segment = self._resident.payload
        if info.size > segment or BITS[info.dtype] < 8:
            return self._model.get_slice(name, self._path)[box]
        if len(self._kept) * segment > KEPT:
            self._let_go()
        self._kept.update(range(info.begin // segment, -(-info.end // segment)))
        return engine.view(info, self._resident.shared(info.begin, info.end))[box]

    def _let_go(self) -> None:
        if self._resident.release():
            self._kept.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._let_go()
