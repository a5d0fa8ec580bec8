"""The tensors of a model, for each framework and in each manner that a job may want them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from modelvault.access import Obligations
from modelvault.errors import AccessDenied, InvalidRequest
from modelvault.loader.lent import Lent
from modelvault.loader.resident import Resident, load_all
from modelvault.loader.shards import Shards
from modelvault.loader.source import Fits, Gate
from modelvault.loader.spans import spans
from modelvault.loader.streams import WINDOW, Stream, TensorStream
from modelvault.weights.gguf import in_bytes
from modelvault.weights.index import Located
from modelvault.weights.safetensors import TensorInfo

if TYPE_CHECKING:
    from modelvault.loader.engines.modules import Loaded
    from modelvault.loader.engines.numpy import Array
    from modelvault.loader.slices import TensorSlice

Framework = Literal["torch", "numpy", "pt", "np"]


class Tensors:
    """A Model's part that knows of tensors; errors as there."""

    obligations: Obligations
    _gate: Gate
    _fits: Fits
    _shards: Shards
    _lent: Lent
    _streams: weakref.WeakSet[Stream]

    def tensors(self, *paths: str) -> dict[str, Array]:
        """{name: read-only numpy array over the decrypted memory} of the safetensors or GGUF files
        named, or of all granted ones: safetensors (an index among them is checked), or GGUF where
        there are none. Nothing is copied. ggml's quantised types come as rows of uint8.

        Raises NotFound (`no_tensors`), InvalidRequest (`missing_extra`, `unsupported_dtype`),
        and what `Shards.locate` raises for headers that lie.
        """
        from modelvault.loader.engines import numpy

        return self._views(numpy, paths, Resident.view)

    def state_dict(self, *paths: str) -> dict[str, Any]:
        """{name: torch.Tensor over the decrypted memory}, as `tensors`. torch knows no read-only
        tensor: writing to one changes this model's memory and nothing else. Types of less than a
        byte come packed (`loader.engines.torch`).
        """
        from modelvault.loader.engines import torch

        return self._views(torch, paths, Resident.shared)

    def tensor(self, name: str, path: str | None = None) -> Array:
        """One tensor, as in `tensors`; only its own segments and headers are read and decrypted.

        Raises NotFound (`no_tensor`). `path` says which file, should two hold the name.
        """
        from modelvault.loader.engines import numpy

        self._gate.check()
        where, info = self._shards.find(name, path)
        numpy.check([info])
        return numpy.view(info, self._cleared(where).view(info.begin, info.end))

    def tensor_infos(self, *paths: str) -> dict[str, TensorInfo]:
        """{name: dtype, shape and place in its file}, from the headers alone."""
        self._gate.check()
        return {name: info for name, (_, info) in self._shards.locate(paths).items()}

    def iter_tensors(self, *paths: str, device: object = None, window: int = WINDOW) -> Stream:
        """(name, torch.Tensor) of the files named or of all, one after the other, decrypted ahead
        by a thread; nothing of it stays in this model.

        Without `device` (or on the CPU) each tensor has guarded memory of its own, wiped when the
        last reference to it goes, and `window` bounds the bytes of all that live: drop a tensor,
        or clone what is to stay, before the next one. On another device, host memory holds two
        buffers of at most 64 MiB, pinned for CUDA, however large the model and its tensors are.

        Raises as `state_dict`; InvalidRequest (`no_device`, `bad_window`); while iterating
        Conflict (`window_full`). What it gives is an iterator and a context manager.
        """
        from modelvault.loader.engines import staging, torch

        target = _device(device)
        located = self._located(torch, paths)
        if target is None:
            stream: Stream = TensorStream(
                located.values(), self._cleared, self._lent, torch.view, self._fits, window
            )
        else:
            stream = staging.StagedTensors(
                located.values(), self._cleared, self._lent, staging.empty_on(target), target,
                self._fits, window,
            )  # fmt: skip
        self._streams.add(stream)
        return stream

    def load_into(
        self, module: object, *paths: str, strict: bool = True, window: int = WINDOW
    ) -> Loaded:
        """Fill a torch.nn.Module. Parameters and buffers on the meta device are replaced by tensors
        over this model's memory, as in `state_dict` and in the file's dtype; all others are copied
        into, streaming, on their own device and in their own dtype.

        Names, shapes and dtypes are compared before anything is changed. Raises InvalidRequest
        (`state_mismatch` naming what is missing or unexpected, unless `strict` is False;
        `not_a_module`) and as `state_dict`; then the module may be filled in part.
        """
        from modelvault.loader.engines import filling, modules, torch

        targets = modules.Targets(module)
        located = self._located(torch, paths)
        missing, unexpected = targets.choose((info for _, info in located.values()), strict)
        passed_over = set(unexpected)
        wanted = {name: one for name, one in located.items() if name not in passed_over}
        bare = {name: one for name, one in wanted.items() if targets[name].is_meta}
        held = {name: one for name, one in wanted.items() if name not in bare}
        for name, tensor in self._shared(bare):
            targets.assign(name, tensor)
        filling.copy(targets, held, self._cleared, self._lent, self._fits, window, self._streams)
        return modules.Loaded(
            missing=tuple(missing), unexpected=tuple(unexpected), meta=tuple(targets.on_meta())
        )

    def get_slice(
        self, name: str, path: str | None = None, *, framework: Framework = "torch"
    ) -> TensorSlice:
        """A tensor of which parts are taken, as safetensors' `get_slice`: `[...]` decrypts only the
        segments that the part lies in, each once. Parts have memory of their own.

        Raises NotFound (`no_tensor`), InvalidRequest (`missing_extra`, `unsupported_dtype`,
        `bad_framework`). `path` says which file, should two hold the name.
        """
        from modelvault.loader.slices import TensorSlice

        self._gate.check()
        engine = _engine(framework)
        where, info = self._shards.find(name, path)
        info = in_bytes(info)
        engine.check([info])
        return TensorSlice(info, self._cleared(where), self._lent, engine.view, self._fits)

    def load_checkpoint(self, path: str) -> Any:  # noqa: ANN401
        """A pickled checkpoint by `torch.load` with `weights_only`: tensors and plain containers.

        torch copies the tensors into memory of its own, which is neither guarded nor wiped. Raises
        AccessDenied (`pickle_refused`) unless the policy gave the obligation `allow_pickle`,
        InvalidRequest (`bad_checkpoint`) for one that holds anything else.
        """
        from modelvault.loader.engines import checkpoints

        if not self.obligations.allow_pickle:
            raise AccessDenied(
                "pickle_refused",
                f"{path} would be opened as a pickle, which can run any code that is in it",
                "convert it to safetensors and push that, or ask the model's owner for the "
                "obligation allow_pickle",
                file=path,
                reasons=["pickle_refused"],
            )
        return checkpoints.load(self._cleared(path))

    def _located(self, engine: Any, paths: Sequence[str]) -> dict[str, Located]:  # noqa: ANN401
        for path in self._shards.choose(paths):
            self._granted(path)
        located = self._shards.locate(paths)
        engine.check(info for _, info in located.values())
        return located

    def _shared(self, located: Mapping[str, Located]) -> Iterable[tuple[str, Any]]:
        """Tensors over the memory of their files, of which no more is decrypted than they need."""
        from modelvault.loader.engines import torch

        for span in spans(located.values()):
            memory = self._cleared(span.path).shared(span.begin, span.end)
            for info in span.tensors:
                begin = info.begin - span.begin
                yield info.name, torch.view(info, memory[begin : begin + info.size])

    def _views(
        self,
        engine: Any,  # noqa: ANN401
        paths: Sequence[str],
        take: Callable[[Resident, int, int], memoryview],
    ) -> dict[str, Any]:
        chosen = [self._granted(path) for path in self._shards.choose(paths)]
        self._check_fits(chosen)
        located = self._located(engine, paths)
        load_all(chosen)
        # One view a file, sliced: a look at gate, lock and gaps for each tensor adds up.
        whole = {resident.path: take(resident, 0, resident.size) for resident in chosen}
        return {
            name: engine.view(info, whole[path][info.begin : info.end])
            for name, (path, info) in located.items()
        }

    def _check_fits(self, residents: Iterable[Resident]) -> None:
        missing = sum(resident.missing for resident in residents)
        if missing:
            self._fits(missing)

    def _cleared(self, path: str) -> Resident:
        raise NotImplementedError

    def _granted(self, path: str) -> Resident:
        raise NotImplementedError


def _engine(framework: str) -> Any:  # noqa: ANN401
    from modelvault.loader.engines import numpy, torch

    engine = {"torch": torch, "pt": torch, "numpy": numpy, "np": numpy}.get(framework)
    if engine is None:
        raise InvalidRequest(
            "bad_framework", f"no framework {framework!r} for slices", "torch or numpy"
        )
    return engine


def _device(device: object) -> Any:  # noqa: ANN401
    """A torch.device that isn't the CPU, or None. InvalidRequest (`no_device`)."""
    from modelvault.loader.engines import torch

    return None if device is None else torch.other_device(device)
