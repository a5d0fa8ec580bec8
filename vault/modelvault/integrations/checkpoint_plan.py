"""How a distributed save is laid out: known from the plans alone, before any byte is there.

Every process has one safetensors file. A tensor that one process has whole goes by its own name, a
part of one by its name and place (`w[0,512]`), so no two files of a version share a name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from torch.distributed.checkpoint.planner import SavePlan, WriteItem, WriteItemType

from modelvault.client.saving_tensors import unsupported_dtype
from modelvault.client.saving_torch import NAMES
from modelvault.errors import InvalidRequest
from modelvault.weights import checkpoint, plain
from modelvault.weights.checkpoint import Chunk, Index, Stored
from modelvault.weights.layout import Row, check_name, lay_out
from modelvault.weights.safetensors import BITS


class Share(msgspec.Struct, frozen=True):
    """What one process writes: its file, and the tensors in it, by their items in its plan."""

    path: str
    rows: dict[int, Row]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return lay_out(list(self.rows.values()), {}, METADATA).size


class Layout(msgspec.Struct, frozen=True):
    """A whole save: each process's share, None where one has no tensor, the index without values,
    and the names of those that there will be."""

    shares: tuple[Share | None, ...]
    index: Index
    values: tuple[str, ...]

    def reserve(self, values: int) -> int:
        """How large the index may get: what is known of it, room for each value as an optimizer
        has them, and `values` bytes for all that are larger.

        Raises InvalidRequest (`index_too_large`) for one that no reader would take."""
        size = len(checkpoint.write(self.index))
        if self.values:
            names = sum(len(msgspec.json.encode(name)) for name in self.values)
            size += names + _VALUE * len(self.values) + values
        if size > checkpoint.MAX_BYTES:
            raise InvalidRequest(
                "index_too_large",
                f"the index of this save takes {size:,} bytes; the limit is "
                f"{checkpoint.MAX_BYTES:,}",
                "lower max_values, put small tensors together, or save from fewer processes",
            )
        return size


METADATA = {"format": "pt"}
_VALUE = 128  # bytes: a pair of floats takes 60


def lay_out_all(plans: Sequence[SavePlan]) -> Layout:
    """From the plans of all processes, in the order of their ranks.

    Raises InvalidRequest: `plan_caching`, `unsupported_dtype`, `bad_tensor_name`, `file_clash`.
    """
    tensors: dict[str, Stored] = {}
    taken: set[str] = set()
    shares = []
    paths: dict[str, Any] = {}
    for rank, plan in enumerate(plans):
        if not plan.usable:
            raise InvalidRequest(
                "plan_caching",
                "the planner reuses the plan of an earlier save, which was of another version",
                "take a planner with enable_plan_caching=False",
            )
        path = "model.safetensors" if len(plans) == 1 else f"rank-{rank:05}.safetensors"
        share = _share(plan, path, taken, tensors)
        shares.append(share if share.rows else None)
        paths |= _paths(plan.planner_data)
    values = tuple(
        item.index.fqn
        for plan in plans
        for item in plan.items
        if item.type is WriteItemType.BYTE_IO
    )
    return Layout(tuple(shares), Index(1, tensors, {}, paths), values)


def _share(plan: SavePlan, path: str, taken: set[str], tensors: dict[str, Stored]) -> Share:
    rows = {}
    for at, item in enumerate(plan.items):
        if item.type is WriteItemType.BYTE_IO:
            continue
        data = _tensor_data(item)
        fqn = check_name(item.index.fqn)
        offsets, sizes = tuple(data.chunk.offsets), tuple(data.chunk.sizes)
        size = tuple(data.size)
        dtype = _dtype(fqn, data.properties.dtype)
        name = _name(fqn, offsets, whole=sizes == size)
        if name in taken:
            raise InvalidRequest(
                "bad_tensor_name", f"two tensors would both be called {name[:120]!r}", "rename one"
            )
        taken.add(name)
        rows[at] = Row(name, dtype, sizes, _bytes(dtype, sizes))
        known = tensors.get(fqn) or Stored(dtype, size, ())
        tensors[fqn] = Stored(dtype, size, (*known.chunks, Chunk(offsets, sizes, path, name)))
    return Share(path, rows)


def _tensor_data(item: WriteItem) -> Any:  # noqa: ANN401
    if item.tensor_data is None:
        raise InvalidRequest(
            "not_a_tensor", f"the plan says nothing of the tensor {item.index.fqn[:120]!r}", ""
        )
    return item.tensor_data


def _dtype(fqn: str, dtype: object) -> str:
    named = NAMES.get(str(dtype).removeprefix("torch."))
    if named is None or BITS[named] < 8:
        raise unsupported_dtype(fqn, dtype)
    return named


def _bytes(dtype: str, sizes: Sequence[int]) -> int:
    size = BITS[dtype] // 8
    for extent in sizes:
        size *= extent
    return size


def _name(fqn: str, offsets: Sequence[int], *, whole: bool) -> str:
    return fqn if whole else f"{fqn}[{','.join(map(str, offsets))}]"


def _paths(mappings: object) -> dict[str, Any]:
    """The keys on the way to each value, where the planner has flattened the state."""
    if not isinstance(mappings, Mapping):
        return {}
    return {fqn: plain.encode(tuple(path), _nothing) for fqn, path in mappings.items()}


def _nothing(_where: tuple[object, ...], _value: object) -> None:
    return None
