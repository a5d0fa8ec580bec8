"""A sentence encoder in torch whose parameters are the decrypted memory itself: nothing is copied.

modelvault create minilm && modelvault push ./minilm minilm:prod
python examples/torch_module.py minilm:prod "A man is eating food." "A man is eating bread."
"""

import json
import sys

import torch
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

import modelvault
from modelvault import Model


def encoder(model: Model) -> BertModel:
    config = BertConfig(**json.loads(bytes(model.read_bytes("config.json"))))
    with torch.device("meta"):  # parameters without memory: their places are what gets filled
        network = BertModel(config)
    told = model.load_into(network, strict=False)  # an old file: it holds a buffer too many
    if told.missing or told.unexpected != ("embeddings.position_ids",):
        raise SystemExit(f"not the weights of this encoder: {told}")
    # `told.meta` is what no file fills: here two buffers that follow from the configuration.
    positions = torch.arange(config.max_position_embeddings)[None]
    network.embeddings.position_ids = positions
    network.embeddings.token_type_ids = torch.zeros_like(positions)
    return network.eval()


def main(reference: str, *sentences: str) -> None:
    with (
        modelvault.connect() as vault,
        vault.load(reference, purpose="inference") as model,
    ):
        network = encoder(model)
        tokenizer = Tokenizer.from_str(bytes(model.read_bytes("tokenizer.json")).decode())
        tokenizer.no_padding()
        with torch.inference_mode():
            means = [
                network(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state.mean(1)
                for text in sentences
            ]
            likeness = torch.cosine_similarity(means[0], means[1]).item()
        print(f"{likeness:.4f}")
        del network  # drop what uses the memory before the end of the `with`: it is wiped there


if __name__ == "__main__":
    match sys.argv[1:]:
        case [reference, one, other]:
            main(reference, one, other)
        case _:
            print("usage: torch_module.py REFERENCE SENTENCE SENTENCE", file=sys.stderr)
            sys.exit(2)
