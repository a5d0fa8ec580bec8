"""torch's storage writer over a vault; see `distributed_checkpoint`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import msgspec
import torch
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from modelvault.client.publishing import Claims, check_claims, check_pushable
from modelvault.client.saving import Saved
from modelvault.client.saving_contents import SmallFile, WeightsFile
from modelvault.client.saving_pruned import check_keep
from modelvault.client.saving_ranks import Leading, Part, Ticket
from modelvault.client.saving_tensors import Tensor, tensor_of
from modelvault.client.session import Session
from modelvault.client.upload import Sent
from modelvault.errors import Conflict, InvalidRequest
from modelvault.integrations.checkpoint_plan import METADATA, Layout, Share, lay_out_all
from modelvault.manifest import Provenance
from modelvault.reference import Reference
from modelvault.weights import checkpoint, plain
from modelvault.weights.layout import lay_out

VALUES = 64 << 10


class _Assigned(msgspec.Struct, frozen=True):
    """What the coordinator tells a process: where to join, and what to write."""

    ticket: Ticket
    share: Share | None


class _Written(msgspec.Struct, frozen=True):
    """What a process tells the coordinator of an item: its value, if it is no tensor; and once for
    all of its tensors the file that it has put."""

    value: Any = None
    sent: Sent | None = None


class VaultWriter(StorageWriter):
    """Saves into one version of a model, from any number of processes; may be used for many saves,
    one after the other. Methods are torch's to call.

    `reference` names the model and a tag; dcp's `checkpoint_id` may name another for each save.
    `keep` as in `Session.save`. What isn't a tensor (a learning rate, a step) has 128 bytes each,
    and `max_values` bytes together for what is larger. After a save the coordinator finds the
    version in `saved`.

    A save that failed on any process is given up by the coordinator's next one, by `abandon()`, or
    expires. A session's errors come out of dcp inside its CheckpointException.
    """

    def __init__(
        self,
        vault: Session,
        reference: str,
        *,
        keep: int | None = None,
        labels: Mapping[str, str] | None = None,
        provenance: Provenance | None = None,
        max_values: int = VALUES,
    ) -> None:
        """Raises InvalidRequest (`bad_reference`, `bad_keep`, `bad_labels`, `bad_provenance`)."""
        super().__init__()
        self.saved: Saved | None = None
        self._vault = vault
        self._keep = keep
        self._labels = dict(labels or {})
        self._provenance = provenance
        check_claims(Claims(labels=self._labels, provenance=provenance or Provenance()))
        self._max_values = max_values
        self._reference = self._target(reference)
        self._leading: Leading | None = None
        self._layout: Layout | None = None
        self._save_id = uuid4().hex

    # torch.distributed.checkpoint.storage.StorageWriter
    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """The next save goes to the reference `checkpoint_id`."""
        if checkpoint_id:
            self._reference = self._target(os.fspath(checkpoint_id))

    def set_up_storage_writer(
        self,
        is_coordinator: bool,  # noqa: ARG002
        *args: Any,  # noqa: ANN401, ARG002
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """A save begins, and an earlier one that didn't end is given up. Raises InvalidRequest
        (`needs_collectives`)."""
        self.abandon()
        self.saved = None
        self._save_id = uuid4().hex
        if not kwargs.get("use_collectives", True):
            raise InvalidRequest(
                "needs_collectives",
                "processes that don't speak to each other can't write one version",
                "save with use_collectives=True, or a model for each process",
            )

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Nothing is planned before all plans are known."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """The coordinator lays all files out and opens the version."""
        layout = lay_out_all(plans)
        sizes = {share.path: share.size for share in layout.shares if share is not None}
        sizes[checkpoint.FILE] = layout.reserve(self._max_values)
        own = [checkpoint.FILE]
        if layout.shares[0] is not None:  # the coordinator is the first of them
            own.append(layout.shares[0].path)
        self._layout = layout
        self._leading = self._vault.open_joint(str(self._reference), sizes, own)
        ticket = self._leading.ticket
        return [
            replace(plan, storage_data=_Assigned(ticket, share))
            for plan, share in zip(plans, layout.shares, strict=True)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Every process encrypts and puts its own file."""
        assigned = plan.storage_data
        if not isinstance(assigned, _Assigned):
            raise InvalidRequest(
                "plan_caching", "this plan is of no save of this writer", "save anew"
            )
        values = {
            at: _Written(value=_value(item, planner))
            for at, item in enumerate(plan.items)
            if item.type is WriteItemType.BYTE_IO
        }
        written = self._write(plan.items, assigned, planner)
        results = [
            WriteResult(item.index, _size(assigned.share, at), values.get(at, _Written()))
            for at, item in enumerate(plan.items)
        ]
        if written is not None:  # there is a tensor, so there is an item to tell it with
            results[0] = replace(
                results[0], storage_data=_Written(values.get(0, _Written()).value, written)
            )
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """The coordinator writes the index and commits."""
        leading, layout = self._leading, self._layout
        if leading is None or layout is None:
            raise Conflict("upload_closed", "this save was given up", "save again")
        told = [each for one in results for each in one]
        sent = [each.storage_data.sent for each in told if each.storage_data.sent is not None]
        values = {
            each.index.fqn: each.storage_data.value
            for each in told
            if each.index.fqn not in layout.index.tensors
        }
        try:
            index = msgspec.structs.replace(layout.index, values=values)
            text = checkpoint.pad(checkpoint.write(index), layout.reserve(self._max_values))
            sent += leading.write(Part((SmallFile(checkpoint.FILE, text),)))
            self.saved = self._vault.commit_joint(
                leading,
                sent,
                keep=self._keep,
                labels=self._labels,
                provenance=self._provenance,
            )
        except BaseException:
            leading.abandon(sent)
            raise
        finally:
            self._leading = self._layout = None
        metadata.storage_meta = self.storage_meta()

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether it is a reference that can be saved to."""
        try:
            check_pushable(Reference.parse(os.fspath(checkpoint_id)))
        except InvalidRequest:
            return False
        return True

    def storage_meta(self) -> StorageMeta:
        """See StorageWriter."""
        return StorageMeta(checkpoint_id=self.checkpoint_id, save_id=self._save_id)

    @property
    def checkpoint_id(self) -> str:
        """The reference that is saved to."""
        return str(self._reference)

    # ours
    def abandon(self) -> None:
        """Give up a save that didn't come to its end. Idempotent, and never fails."""
        leading, self._leading, self._layout = self._leading, None, None
        if leading is not None:
            leading.abandon()

    def _target(self, reference: str) -> Reference:
        named = Reference.parse(reference)
        check_pushable(named)
        check_keep(named, self._keep)
        return named

    def _write(
        self, items: Sequence[WriteItem], assigned: _Assigned, planner: SavePlanner
    ) -> Sent | None:
        share = assigned.share
        if share is None:
            return None
        leading = self._leading
        try:
            part = Part((_file(items, share, planner),))
            if leading is not None and leading.ticket == assigned.ticket:
                return leading.write(part)[0]
            with self._vault.join_joint(assigned.ticket, [share.path]) as joint:
                return joint.write(part)[0]
        except BaseException:
            self.abandon()
            raise


def _file(items: Sequence[WriteItem], share: Share, planner: SavePlanner) -> WeightsFile:
    """A process's file, made of the tensors as they are now."""
    tensors: dict[str, Tensor] = {}
    for at, row in share.rows.items():
        tensor = tensor_of(row.name, planner.resolve_data(items[at]))
        if tensor.row != row:
            raise InvalidRequest(
                "not_as_planned",
                f"tensor {row.name!r} is {tensor.row.dtype} {list(tensor.row.shape)}, and its plan "
                f"said {row.dtype} {list(row.shape)}",
                "let the planner's plan tell what its resolve_data gives",
            )
        tensors[row.name] = tensor
    return WeightsFile(share.path, lay_out(list(share.rows.values()), {}, METADATA), tensors)


def _value(item: WriteItem, planner: SavePlanner) -> Any:  # noqa: ANN401
    """What isn't a tensor, as a plain value. Planners give it as torch has pickled it: it is taken
    out of that, in memory, as what may hold plain values only."""
    data: Any = planner.resolve_data(item)
    data.seek(0)
    try:
        value = torch.load(data, weights_only=True)
    except Exception:  # noqa: BLE001  torch's and pickle's many kinds, all with one meaning
        raise plain.not_plain(
            (item.index.fqn,), "it is neither a tensor nor a plain value", plain.KINDS
        ) from None
    return plain.encode(value, _no_tensor, where=(item.index.fqn,))


def _no_tensor(_where: tuple[object, ...], _value: object) -> None:
    return None


def _size(share: Share | None, at: int) -> int:
    return share.rows[at].size if share is not None and at in share.rows else 0
