"""A GGUF file out of a vault, answered by llama.cpp in this process.

modelvault create gemma && modelvault push ./gemma.gguf gemma:prod
python examples/gguf_llama.py gemma:prod "The capital of France is"
"""

import sys

import xllamacpp

import modelvault


def main(reference: str, prompt: str) -> None:
    with (
        modelvault.connect() as vault,
        vault.load(reference, purpose="inference") as model,
    ):
        (name,) = (path for path in model.files if path.endswith(".gguf"))
        header = model.gguf_header(name)  # decrypts the header alone
        print(f"{name}: {header.architecture}, {header.quantisation}")

        options = xllamacpp.CommonParams()
        options.model.path = str(model.path(name) / name)  # in memory, under a name
        options.n_ctx = 256
        options.warmup = False
        server = xllamacpp.Server(options)
        answer = server.handle_completions({"prompt": prompt, "max_tokens": 6, "temperature": 0})
        print(prompt + answer["choices"][0]["text"])


if __name__ == "__main__":
    match sys.argv[1:]:
        case [reference, prompt]:
            main(reference, prompt)
        case _:
            print("usage: gguf_llama.py REFERENCE PROMPT", file=sys.stderr)
            sys.exit(2)
