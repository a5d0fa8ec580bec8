"""torch's storage reader over a vault; see `distributed_checkpoint`."""

from __future__ import annotations

import io
import os
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import torch
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from modelvault.client.saving_torch import NAMES
from modelvault.client.session import Session
from modelvault.errors import Conflict, IntegrityError, InvalidRequest
from modelvault.integrations.checkpoint_parts import Parts
from modelvault.loader.model import Model
from modelvault.reference import Reference
from modelvault.weights import checkpoint, plain
from modelvault.weights.checkpoint import Chunk, Index, Stored

_DTYPES = {dtype: getattr(torch, name) for name, dtype in NAMES.items() if hasattr(torch, name)}


class VaultReader(StorageReader):
    """Loads from one version, by any number of processes: another number than saved it, too. Of
    each tensor only the segments that a process wants are read and decrypted.

    Takes a lease when it is made, and gives it back by `close()` or at the end of a `with`.
    Versions that `save` and `push` made are read, too: their safetensors files. Methods are torch's
    to call.
    """

    def __init__(
        self, vault: Session, reference: str, *, purpose: str, ticket: str | None = None
    ) -> None:
        """Raises what `Session.load` raises."""
        super().__init__()
        self._vault = vault
        self._purpose = purpose
        self._ticket = ticket
        self._reference = str(Reference.parse(reference))
        self._load_id = uuid4().hex
        self._index: Index | None = None
        self._model: Model | None = self._load()

    # torch.distributed.checkpoint.storage.StorageReader
    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """A new load begins; `checkpoint_id` is the reference that it comes from."""
        self._load_id = uuid4().hex
        if checkpoint_id and os.fspath(checkpoint_id) != self._reference:
            self.close()
            self._reference = str(Reference.parse(os.fspath(checkpoint_id)))
            self._model = self._load()

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:  # noqa: ANN401, ARG002
        """What the version holds. Raises IntegrityError (`bad_checkpoint`)."""
        index = self._index = _index(self._opened())
        found: dict[str, Any] = {fqn: _tensor(fqn, one) for fqn, one in index.tensors.items()}
        found |= {fqn: BytesStorageMetadata() for fqn in index.values}
        return Metadata(
            state_dict_metadata=found,
            planner_data={fqn: plain.decode(path, _none) for fqn, path in index.paths.items()},
            storage_data={
                MetadataIndex(fqn, chunk.offsets): chunk
                for fqn, one in index.tensors.items()
                for chunk in one.chunks
            },
            storage_meta=StorageMeta(checkpoint_id=self._reference, load_id=self._load_id),
        )

    def set_up_storage_reader(
        self,
        metadata: Metadata,
        is_coordinator: bool,
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Where everything lies, this reader has read itself."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """See StorageReader."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """See StorageReader."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read what this process wants."""
        model, index = self._opened(), self._index
        if index is None:
            raise Conflict("closed", "nothing was read of this version yet", "read its metadata")
        chunks = {
            MetadataIndex(fqn, chunk.offsets): chunk
            for fqn, one in index.tensors.items()
            for chunk in one.chunks
        }
        files: dict[str, list[tuple[Chunk, ReadItem]]] = {}
        for item in plan.items:
            if item.type is LoadItemType.BYTE_IO:
                planner.load_bytes(item, _packed(index.values[item.storage_index.fqn]))
            else:
                chunk = chunks[item.storage_index]
                files.setdefault(chunk.file, []).append((chunk, item))
        for path, wanted in files.items():
            with Parts(model, path) as parts:
                for chunk, item in sorted(wanted, key=lambda one: parts.info(one[0].name).begin):
                    _read(parts, chunk, index.tensors[item.storage_index.fqn], item, planner)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether it is a reference."""
        try:
            Reference.parse(os.fspath(checkpoint_id))
        except InvalidRequest:
            return False
        return True

    @property
    def checkpoint_id(self) -> str:
        """The reference that is loaded from."""
        return self._reference

    # ours
    def close(self) -> None:
        """Give the lease back and wipe what was decrypted. Idempotent."""
        model, self._model, self._index = self._model, None, None
        if model is not None:
            model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _load(self) -> Model:
        return self._vault.load(self._reference, purpose=self._purpose, ticket=self._ticket)

    def _opened(self) -> Model:
        if self._model is None:
            raise Conflict("closed", "this reader was closed", "make another one")
        return self._model


def _index(model: Model) -> Index:
    """The version's own index, or what the headers of its safetensors files tell."""
    if checkpoint.FILE in model.files:
        with model.open(checkpoint.FILE) as file:
            return checkpoint.read(file.read())
    tensors: dict[str, Stored] = {}
    for path in model.files:
        if path.endswith(".safetensors"):
            for name, info in model.tensor_infos(path).items():
                chunk = Chunk((0,) * len(info.shape), info.shape, path, name)
                tensors[name] = Stored(info.dtype, info.shape, (chunk,))
    return Index(1, tensors, {}, {})


def _tensor(fqn: str, stored: Stored) -> TensorStorageMetadata:
    dtype = _DTYPES.get(stored.dtype)
    if dtype is None:
        raise InvalidRequest(
            "unsupported_dtype",
            f"tensor {fqn!r} is {stored.dtype}, which this torch has no type for",
            "take a newer torch",
        )
    return TensorStorageMetadata(
        properties=TensorProperties(dtype=dtype),
        size=torch.Size(stored.size),
        chunks=[
            ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.sizes))
            for chunk in stored.chunks
        ],
    )


def _read(parts: Parts, chunk: Chunk, stored: Stored, item: ReadItem, planner: LoadPlanner) -> None:
    info = parts.info(chunk.name)
    if (info.shape, info.dtype) != (chunk.sizes, stored.dtype):
        raise IntegrityError(
            "bad_checkpoint",
            f"{chunk.file}: tensor {chunk.name!r} has another shape or type than "
            f"{checkpoint.FILE} says",
            "save it anew",
        )
    box = zip(item.storage_offsets, item.lengths, strict=True)
    part = parts.part(chunk.name, tuple(slice(begin, begin + size) for begin, size in box))
    target = planner.resolve_tensor(item).detach()
    if target.size() != part.size():
        raise InvalidRequest(
            "wrong_shape",
            f"{item.storage_index.fqn!r}: {list(part.size())} is stored where the state has "
            f"{list(target.size())}",
            "load into a state of the shapes that were saved",
        )
    target.copy_(part)
    planner.commit_tensor(item, target)


def _packed(value: Any) -> io.BytesIO:  # noqa: ANN401
    """A plain value as planners take it: pickled by torch, here and now, out of strict JSON."""
    packed = io.BytesIO()
    torch.save(plain.decode(value, _none), packed)
    packed.seek(0)
    return packed


def _none(_name: str) -> object:
    raise plain.bad_checkpoint(f"{checkpoint.FILE} has a tensor among the plain values")
