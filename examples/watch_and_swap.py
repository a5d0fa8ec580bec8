"""Serve what a tag means with torch, and swap when the tag moves; no request fails meanwhile.

python examples/watch_and_swap.py scorer:prod < numbers.txt     # a request in each line
modelvault tag scorer@8 prod                                    # elsewhere, whenever you like
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import torch

import modelvault


def prepare(model: modelvault.Model) -> torch.nn.Module:
    """What requests use: made once for each version, before it serves. Nothing is copied."""
    weights = model.state_dict()
    width = weights["0.weight"].shape[1]
    with torch.device("meta"):
        network = torch.nn.Sequential(
            torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 1)
        )
    network.load_state_dict(weights, assign=True)
    return network.eval()


def main(reference: str, requests: Iterable[str], every_s: float = 5.0) -> None:
    with (
        modelvault.connect() as vault,
        vault.watch(
            reference,
            purpose="inference",
            prepare=prepare,
            every_s=every_s,
            on_change=lambda old, new: print(f"{new} serves, and no longer {old}"),
            on_error=lambda error: print(f"no change: {error}", file=sys.stderr),
        ) as live,
    ):
        for line in requests:
            print(answer(live, line))


def answer(live: modelvault.Live[torch.nn.Module], line: str) -> str:
    """One request: all of it sees one version, and it keeps nothing of it."""
    with live.prepared() as network, live.model() as model, torch.inference_mode():
        numbers = torch.tensor([float(word) for word in line.split()])
        return f"{model.name}: {network(numbers).item():.4f}"


if __name__ == "__main__":
    match sys.argv[1:]:
        case [reference]:
            main(reference, sys.stdin)
        case _:
            print("usage: watch_and_swap.py REFERENCE < REQUESTS", file=sys.stderr)
            sys.exit(2)
