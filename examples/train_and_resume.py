"""Train, save every few steps without waiting, be killed, and go on from the vault.

    modelvault create run
    python examples/train_and_resume.py --steps 40 --every 10        # kill it at any time
    python examples/train_and_resume.py --steps 40 --every 10        # goes on where it was saved

Weights, optimizer, random numbers and step are in each checkpoint, so the losses after a kill are
those of a run that was never killed, to the last bit. No checkpoint is on a disk in the clear, and
none is a pickle.
"""

from __future__ import annotations

import argparse

import torch

import modelvault
from modelvault.errors import NotFound
from modelvault.integrations.training import flatten, restore


def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(16, 64), torch.nn.GELU(), torch.nn.Dropout(0.1), torch.nn.Linear(64, 1)
    )
    return net, torch.optim.AdamW(net.parameters(), lr=1e-2)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Data out of the random numbers that are saved, too: what comes after a kill is what would
    have come."""
    inputs = torch.randn(32, 16)
    return inputs, inputs.sin().sum(dim=1, keepdim=True)


def resume(
    vault: modelvault.Session, name: str, net: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> int:
    """Take up the newest checkpoint; the number of steps that are done."""
    try:
        with vault.load(name, purpose="fine-tuning") as model:
            state = restore(model)
    except NotFound:  # nothing was saved yet
        return 0
    net.load_state_dict(state["net"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    return int(state["step"])


def train(name: str, steps: int, every: int, keep: int) -> None:
    net, optimizer = build()
    with modelvault.connect() as vault:
        done = resume(vault, name, net, optimizer)
        print(f"begins at step {done}", flush=True)
        saving = None
        for step in range(done + 1, steps + 1):
            inputs, wanted = batch()
            loss = torch.nn.functional.mse_loss(net(inputs), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(f"step {step} loss {loss.item().hex()}", flush=True)
            if step % every == 0:
                if saving is not None:
                    saving.wait()  # raises what the last save failed with
                tensors, files = flatten(
                    {
                        "net": net.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "random": torch.get_rng_state(),
                        "step": step,
                    }
                )
                saving = vault.begin_save(tensors, f"{name}:step-{step}", files=files, keep=keep)
        # closing the session waits for the last save, and raises what it failed with


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--name", default="run")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--keep", type=int, default=3)
    told = parser.parse_args()
    train(told.name, told.steps, told.every, told.keep)


if __name__ == "__main__":
    main()
