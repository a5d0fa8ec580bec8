"""Which tensors a version's safetensors and GGUF files hold, and where: headers and indices are
read here, `weights` decides what they mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from modelvault.artifact.parallel import run_blocks
from modelvault.errors import IntegrityError, InvalidRequest, NotFound
from modelvault.loader.resident import Resident
from modelvault.weights import gguf, index, safetensors
from modelvault.weights.index import Located
from modelvault.weights.safetensors import TensorInfo

ENDINGS = (".safetensors", ".gguf")
_READERS = 8  # headers read at once: enough to hide a store's latency


class Shards:
    """The tensors of the granted files. Thread-safe; each header is parsed once."""

    def __init__(
        self,
        version: Sequence[str],
        granted: Sequence[str],
        resident: Callable[[str], Resident],
    ) -> None:
        """`version` are all its paths, `granted` those that may be read, through `resident`."""
        self._version = version
        self.files = next(filter(None, (_ending(granted, ending) for ending in ENDINGS)), ())
        self._indices = tuple(path for path in granted if path.endswith(index.SUFFIX))
        self._resident = resident
        self._parsed: dict[str, tuple[TensorInfo, ...]] = {}
        self._weights: dict[str, dict[str, str]] | None = None

    def choose(self, paths: Sequence[str]) -> tuple[str, ...]:
        """`paths`, or, when none is named, all safetensors files; where there are none, all GGUF
        files. NotFound (`no_tensors`)."""
        if not paths and not self.files:
            raise NotFound(
                "no_tensors",
                "none of the granted files is a .safetensors or .gguf file",
                "use read_bytes(), open() or path() for other formats",
            )
        return tuple(dict.fromkeys(paths)) or self.files

    def locate(self, paths: Sequence[str]) -> dict[str, Located]:
        """{name: (path, tensor)} of the named files, or of all of them and their indices.

        Raises IntegrityError naming the file: `bad_safetensors`, `bad_gguf`, `bad_index`,
        `missing_shard`, `duplicate_tensor`, `misplaced_tensor`; InvalidRequest
        (`unsupported_gguf`); AccessDenied when an index needs a file that wasn't granted.
        """
        weights = {} if paths else self._read_indices()
        chosen = self.choose(paths)
        if not paths:
            index.check_splits(chosen, self._version)
        for needed in {shard for places in weights.values() for shard in places.values()}:
            if needed not in chosen:
                self._resident(needed)  # says that it wasn't granted
        located = index.merge(dict(zip(chosen, self._all_infos(chosen), strict=True)))
        for path, places in weights.items():
            index.check_places(path, places, located)
        return located

    def find(self, name: str, path: str | None) -> Located:
        """Where one tensor is, reading no more headers than needed. NotFound (`no_tensor`)."""
        named = {places[name] for places in self._read_indices().values() if name in places}
        if path is None and len(named) == 1:
            path = named.pop()
        paths: Iterable[str] = () if path is None else (path,)
        located = self.locate(tuple(paths)).get(name)
        if located is None:
            raise NotFound(
                "no_tensor",
                f"no tensor {name!r} in {path or 'the granted files'}",
                "tensor_infos() lists the names",
            )
        return located

    def _read_indices(self) -> dict[str, dict[str, str]]:
        if self._weights is None:
            weights = {}
            for path in self._indices:
                resident = self._resident(path)
                weights[path] = index.parse(resident.copy(0, resident.size), path)
                index.check(path, weights[path], self._version)
            self._weights = weights
        return self._weights

    def _all_infos(self, paths: Sequence[str]) -> list[tuple[TensorInfo, ...]]:
        found: list[tuple[TensorInfo, ...]] = [()] * len(paths)

        def read(start: int, stop: int) -> None:
            for at in range(start, stop):
                found[at] = self._infos(paths[at])

        run_blocks(read, len(paths), 1, _READERS)
        return found

    def _infos(self, path: str) -> tuple[TensorInfo, ...]:
        if path not in self._parsed:
            resident = self._resident(path)
            try:
                self._parsed[path] = _parse(resident)
            except (IntegrityError, InvalidRequest) as refused:
                raise resident.named(refused) from None
        return self._parsed[path]


def _parse(resident: Resident) -> tuple[TensorInfo, ...]:
    head = resident.copy(0, min(safetensors.LENGTH_BYTES, resident.size))
    # No length of a safetensors header looks like this magic.
    if head.startswith(gguf.MAGIC) or resident.path.lower().endswith(gguf.SUFFIX):
        return gguf.parse(resident.copy, resident.size).tensors
    size = safetensors.header_size(head, resident.size)
    return safetensors.parse(resident.copy(0, size), resident.size)


def _ending(paths: Sequence[str], ending: str) -> tuple[str, ...]:
    return tuple(path for path in paths if path.lower().endswith(ending))
