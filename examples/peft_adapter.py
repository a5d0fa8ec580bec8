"""A LoRA adapter and the very model that it was trained on: two leases, a decision for each.

modelvault create llama && modelvault push ./llama llama:prod
modelvault create poet && modelvault push ./poet poet:prod --base llama:prod
python examples/peft_adapter.py poet:prod "Roses are"
"""

import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import modelvault


def main(reference: str, prompt: str) -> None:
    with (
        modelvault.connect() as vault,
        vault.load_with_base(reference, purpose="inference") as pair,
    ):
        print(f"{pair.adapter.name} on {pair.base.name}")
        base = pair.base.path()
        tokenizer = AutoTokenizer.from_pretrained(base)
        network = AutoModelForCausalLM.from_pretrained(base, use_safetensors=True)
        network = PeftModel.from_pretrained(network, str(pair.adapter.path()))
        tokens = tokenizer(prompt, return_tensors="pt")
        with torch.inference_mode():
            answer = network.generate(**tokens, max_new_tokens=8, do_sample=False)
        print(tokenizer.decode(answer[0]))
        del network


if __name__ == "__main__":
    match sys.argv[1:]:
        case [reference, prompt]:
            main(reference, prompt)
        case _:
            print("usage: peft_adapter.py REFERENCE PROMPT", file=sys.stderr)
            sys.exit(2)
