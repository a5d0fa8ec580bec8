"""A language model out of a vault: the folder is in memory, and transformers reads it as ever.

modelvault create llama && modelvault push ./llama llama:prod
python examples/transformers_model.py llama:prod "Once upon a time"
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import modelvault


def main(reference: str, prompt: str) -> None:
    with (
        modelvault.connect() as vault,
        vault.load(reference, purpose="inference") as model,
    ):
        folder = model.path()  # the one changed line: files in memory, under names
        tokenizer = AutoTokenizer.from_pretrained(folder)
        network = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
        tokens = tokenizer(prompt, return_tensors="pt")
        with torch.inference_mode():
            answer = network.generate(**tokens, max_new_tokens=8, do_sample=False)
        print(tokenizer.decode(answer[0]))
        del network  # its weights were mapped from that folder


if __name__ == "__main__":
    match sys.argv[1:]:
        case [reference, prompt]:
            main(reference, prompt)
        case _:
            print("usage: transformers_model.py REFERENCE PROMPT", file=sys.stderr)
            sys.exit(2)
