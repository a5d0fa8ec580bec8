"""Weights on their way to a device, through a bounded window of the host's memory; and the part of
one of them that a rank of a tensor-parallel group needs.

python examples/torch_stream.py minilm:prod embeddings.word_embeddings.weight 0 2
"""

import sys

import torch

import modelvault


def main(reference: str, name: str, rank: str, ranks: str) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with (
        modelvault.connect() as vault,
        vault.load(reference, purpose="inference") as model,
    ):
        total = 0
        for _, tensor in model.iter_tensors(device=device, window=256 << 20):
            total += tensor.nbytes
            del tensor  # on the CPU, what is held counts towards the window
        print(f"{total:,} bytes of tensors on {device}")

        before = model.stats().costs.decrypted_bytes
        rows = model.get_slice(name).get_shape()[0]
        size = -(-rows // int(ranks))
        mine = model.get_slice(name)[int(rank) * size : (int(rank) + 1) * size]
        read = model.stats().costs.decrypted_bytes - before
        print(f"{mine.nbytes:,} bytes of {name} for rank {rank}, {read:,} decrypted")
        del mine


if __name__ == "__main__":
    match sys.argv[1:]:
        case [reference, name, rank, ranks]:
            main(reference, name, rank, ranks)
        case _:
            print("usage: torch_stream.py REFERENCE TENSOR RANK RANKS", file=sys.stderr)
            sys.exit(2)
