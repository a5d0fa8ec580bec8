"""One of three processes that save and load distributed checkpoints, for tests.

    python -m support.checkpoint_ranks RANK MEETING_PLACE

Two of them save, then all three load, then one alone; at last one is killed while all three save.
Each prints a JSON document before that, and another one at its end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.stateful import Stateful
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

import modelvault
from modelvault.client import saving_ranks
from modelvault.integrations.distributed_checkpoint import VaultReader, VaultWriter

WORLD = 3
ROWS, COLUMNS = 6 * 2048, 512  # 24 MiB
FULL = torch.arange(ROWS * COLUMNS, dtype=torch.float32).reshape(ROWS, COLUMNS)
SMALL = torch.arange(7.0).bfloat16()
VALUES = {"lr": 0.1, "betas": (0.9, 0.95), "name": "adamw", "step": 3, "none": None}


def state(mesh: DeviceMesh, *, zero: bool = False) -> dict[str, Any]:
    full, small = (torch.zeros_like(FULL), torch.zeros_like(SMALL)) if zero else (FULL, SMALL)
    return {
        "net": {
            "rows": distribute_tensor(full, mesh, [Shard(0)]),
            "columns": distribute_tensor(full[:64].T.contiguous(), mesh, [Shard(1)]),
            "uneven": distribute_tensor(small, mesh, [Shard(0)]),
            "same": small.clone(),
        },
        "optimizer": {"group": dict.fromkeys(VALUES, 0) if zero else dict(VALUES)},
        "random": torch.zeros(5, dtype=torch.uint8) if zero else torch.arange(5).byte(),
    }


class Trained(Stateful):
    """A network and its optimizer, sharded by FSDP, after `steps` steps on the same data."""

    def __init__(self, mesh: DeviceMesh | None, steps: int) -> None:
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(16, 33), torch.nn.GELU(), torch.nn.Linear(33, 4)
        )
        if mesh is not None:
            fully_shard(self.net, mesh=mesh)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-2, betas=(0.8, 0.95))
        self.steps = 0
        while self.steps < steps:
            self.loss()

    def loss(self) -> str:
        """Of one step more, to the bit."""
        torch.manual_seed(self.steps)
        loss = self.net(torch.randn(8, 16)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.steps += 1
        return str(loss.item().hex())

    def state_dict(self) -> dict[str, Any]:
        net, optimizer = get_state_dict(self.net, self.optimizer)
        return {"net": net, "optimizer": optimizer, "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        set_state_dict(
            self.net, self.optimizer, model_state_dict=state_dict["net"],
            optim_state_dict=state_dict["optimizer"],
        )  # fmt: skip
        self.steps = state_dict["steps"]


STEPS = 3


class Dying(dcp.DefaultSavePlanner):
    """The plan of a process that is killed while it writes."""

    def resolve_data(self, write_item: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


class Refusing(dcp.DefaultSavePlanner):
    """The plan of a process that fails while it writes."""

    def resolve_data(self, write_item: Any) -> Any:
        raise OSError("this process's memory is gone")


def main() -> None:
    rank, meeting = int(sys.argv[1]), sys.argv[2]
    told: dict[str, Any] = {"keys": []}
    opened = saving_ranks.Joint.__init__

    def remember(self: Any, *args: Any) -> None:
        opened(self, *args)
        told["keys"].append(sorted(self._keys.files))

    saving_ranks.Joint.__init__ = remember  # type: ignore[method-assign]
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORLD)
    two, three = DeviceMesh("cpu", [0, 1]), DeviceMesh("cpu", [0, 1, 2])
    with modelvault.connect() as vault:
        if rank < 2:
            save(vault, two, rank, told)
        dist.barrier()
        loading = state(three, zero=True) | {"app": Trained(three, 0)}
        with VaultReader(vault, "run:step-2", purpose="fine-tuning") as reader:
            dcp.load(loading, storage_reader=reader)
            told["read"] = reader._opened().stats().costs.decrypted_bytes
        trained = loading.pop("app")
        told["three"] = same(loading, state(three))
        told["steps"] = trained.steps
        told["losses"] = [trained.loss(), Trained(None, STEPS).loss()]
        if rank == 0:
            one = DeviceMesh("cpu", [0])
            alone = state(one, zero=True) | {"app": Trained(None, 0)}
            with VaultReader(vault, "run:step-1", purpose="fine-tuning") as reader:
                dcp.load(alone, storage_reader=reader, no_dist=True)
            told["losses"].append(alone.pop("app").loss())
            told["one"] = same(alone, state(one))
        dist.barrier()
        print(json.dumps(told), flush=True)
        print(json.dumps({"lost": lose_one(vault, three, rank)}), flush=True)


def lose_one(vault: modelvault.Session, mesh: DeviceMesh, rank: int) -> list[str]:
    """The last of the processes is killed amid a save: what the others are told, and what the
    coordinator saves without it."""
    writer, told = VaultWriter(vault, "lost:step-1"), []
    try:
        planner = Dying() if rank == WORLD - 1 else None
        dcp.save(state(mesh), storage_writer=writer, planner=planner)
    except RuntimeError:  # torch's own, of a connection that ended
        told.append("failed")
    if rank == 0:
        alone = {"w": torch.ones(3)}
        dcp.save(alone, checkpoint_id="lost:step-2", storage_writer=writer, no_dist=True)
        told.append("nothing" if writer.saved is None else writer.saved.name)
    return told


def save(vault: modelvault.Session, mesh: DeviceMesh, rank: int, told: dict[str, Any]) -> None:
    group = mesh.get_group()
    writer = VaultWriter(vault, "run:step-1", keep=2)
    app = {"app": Trained(mesh, STEPS)}
    dcp.save(state(mesh) | app, storage_writer=writer, process_group=group)
    told["saved"] = None if writer.saved is None else writer.saved.name
    try:
        planner = Refusing() if rank == 1 else None
        dcp.save(
            state(mesh), checkpoint_id="run:step-9", storage_writer=writer, planner=planner,
            process_group=group,
        )  # fmt: skip
    except dcp.CheckpointException as failed:
        told["failed"] = sorted(failed.failures)
    later = state(mesh) | app
    future = dcp.async_save(
        later, checkpoint_id="run:step-2", storage_writer=writer, process_group=group
    )
    later["net"]["same"].zero_()  # training goes on: torch has taken its copy
    future.result()
    told["async"] = None if writer.saved is None else writer.saved.name


def same(one: Any, other: Any) -> bool:
    if hasattr(one, "full_tensor"):
        return torch.equal(one.full_tensor(), other.full_tensor())
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other) and type(one) is type(other)


if __name__ == "__main__":
    warnings.simplefilter("ignore", UserWarning)  # torch's, of itself
    warnings.simplefilter("ignore", FutureWarning)
    main()
