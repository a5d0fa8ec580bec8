"""Sentences as vectors, by transformers, out of a vault; two more processes tokenise.

modelvault create minilm && modelvault push ./minilm minilm:prod
modelvault run minilm:prod --purpose inference -- \
    python examples/run_transformers.py {model} "A man is eating food." "A man eats bread."
"""

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor

import tokenizers


def open_tokenizer(folder: str) -> None:
    """At the start of a worker, which opens the model's files by itself."""
    global tokenizer
    tokenizer = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
    tokenizer.no_padding()
    print(f"{multiprocessing.current_process().name} tokenises", flush=True)


def tokenise(sentence: str) -> list[int]:
    return tokenizer.encode(sentence).ids


def main(folder: str, *sentences: str) -> None:
    import torch
    import transformers

    encoder = transformers.AutoModel.from_pretrained(folder).eval()
    spawn = multiprocessing.get_context("spawn")
    vectors = []
    with ProcessPoolExecutor(2, spawn, open_tokenizer, (folder,)) as workers:
        for ids in workers.map(tokenise, sentences):
            with torch.inference_mode():
                hidden = encoder(input_ids=torch.tensor([ids])).last_hidden_state[0]
            vectors.append(torch.nn.functional.normalize(hidden.mean(0), dim=0))
    for sentence, vector in zip(sentences, vectors, strict=True):
        print(f"{float(vector @ vectors[0]):.4f} {sentence}")


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    match sys.argv[1:]:
        case [folder, *sentences] if sentences:
            main(folder, *sentences)
        case _:
            print("usage: run_transformers.py FOLDER SENTENCE...", file=sys.stderr)
            sys.exit(2)
