"""A picture by a pipeline out of a vault; its folders and files are in memory.

modelvault create painter && modelvault push ./pipeline painter:prod
python examples/diffusers_pipeline.py painter:prod "a lighthouse" picture.png
"""

import sys

import torch
from diffusers import DiffusionPipeline

import modelvault


def main(reference: str, prompt: str, picture: str) -> None:
    with (
        modelvault.connect() as vault,
        vault.load(reference, purpose="inference") as model,
    ):
        pipeline = DiffusionPipeline.from_pretrained(model.path(), use_safetensors=True)
        chance = torch.Generator().manual_seed(7)
        images = pipeline(prompt, num_inference_steps=4, generator=chance).images
        images[0].save(picture)
        print(f"{picture}: {images[0].width} x {images[0].height}")
        del pipeline


if __name__ == "__main__":
    match sys.argv[1:]:
        case [reference, prompt, picture]:
            main(reference, prompt, picture)
        case _:
            print("usage: diffusers_pipeline.py REFERENCE PROMPT PICTURE", file=sys.stderr)
            sys.exit(2)
