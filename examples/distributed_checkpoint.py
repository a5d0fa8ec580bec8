"""Checkpoints of sharded training, written by all processes into one version.

    modelvault create run
    torchrun --nproc-per-node 2 examples/distributed_checkpoint.py     # any number; alone: python

The second run goes on where the first one ended, with another number of processes too.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.stateful import Stateful
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import modelvault
from modelvault.errors import NotFound
from modelvault.integrations.distributed_checkpoint import VaultReader, VaultWriter

NAME = os.environ.get("RUN", "run")
STEPS = 5


class Training(Stateful):
    """What is saved: the shards of this process, and where the training stands."""

    def __init__(self, net: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.net, self.optimizer, self.step = net, optimizer, 0

    def state_dict(self) -> dict[str, Any]:
        net, optimizer = get_state_dict(self.net, self.optimizer)
        return {"net": net, "optimizer": optimizer, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        set_state_dict(
            self.net,
            self.optimizer,
            model_state_dict=state_dict["net"],
            optim_state_dict=state_dict["optimizer"],
        )
        self.step = state_dict["step"]


def main() -> None:
    many = "RANK" in os.environ  # torchrun sets it
    if many:
        dist.init_process_group("gloo")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 4))
    if many:
        fully_shard(net, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    training = Training(net, torch.optim.AdamW(net.parameters(), lr=1e-2))

    with modelvault.connect() as vault:  # a session for each process, of one identity
        try:
            with VaultReader(vault, NAME, purpose="fine-tuning") as reader:
                dcp.load({"training": training}, storage_reader=reader)
        except NotFound:
            print("nothing was saved yet")
        for _ in range(STEPS):
            loss = training.net(torch.ones(8, 16)).square().mean()
            training.optimizer.zero_grad()
            loss.backward()
            training.optimizer.step()
            training.step += 1
            print(f"step {training.step} loss {loss.item():.6f}", flush=True)
        writer = VaultWriter(vault, f"{NAME}:step-{training.step}", keep=2)
        dcp.save({"training": training}, storage_writer=writer)
        if writer.saved is not None:  # the coordinator's
            print(f"saved {writer.saved.name}", flush=True)
    if many:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
