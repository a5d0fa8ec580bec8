"""Eight ranks of one job share a model: one lease, one decryption, one copy in memory.

python examples/ranks.py minilm:prod 8

`torchrun`, `accelerate launch` and the like do as well in the place of multiprocessing: start them
as children of the process that holds the model, with the host's environment. With `modelvault run
minilm:prod --purpose inference --stream -- torchrun train.py` there is nothing to hold by oneself.
"""

import multiprocessing
import os
import sys

import modelvault


def rank(number: int, ranks: int) -> float:
    """What one rank does: here, add up its rows of each tensor."""
    with modelvault.attach() as model:
        total = 0.0
        for name in model.tensor_infos():
            part = model.get_slice(name, framework="numpy")
            if not part.get_shape():
                continue
            rows = part.get_shape()[0]
            mine = part[number * rows // ranks : (number + 1) * rows // ranks]
            total += float(mine.sum(dtype="f8"))
            del mine
        return total


def main(reference: str, ranks: int) -> None:
    with (
        modelvault.connect() as vault,
        vault.load(reference, purpose="inference") as model,
        modelvault.Host(model) as host,
    ):
        os.environ |= host.environment
        with multiprocessing.get_context("spawn").Pool(ranks) as pool:
            sums = pool.starmap(rank, [(number, ranks) for number in range(ranks)], chunksize=1)
        read = sum(model.stats().costs.read_bytes.values())
        print(f"{ranks} ranks: sum {sum(sums):.4f}, {read / model.size:.2f} x the model was read")


if __name__ == "__main__":
    match sys.argv[1:]:
        case [reference, ranks] if ranks.isdecimal():
            main(reference, int(ranks))
        case _:
            print("usage: ranks.py REFERENCE RANKS", file=sys.stderr)
            sys.exit(2)
