"""llama.cpp's server on a GGUF out of a vault, in this process and in two more.

modelvault create gemma && modelvault push ./gemma.gguf gemma:prod
modelvault run gemma:prod --purpose inference -- \
    python examples/run_llama_server.py {model}/gemma.gguf "The capital of France is"
"""

import json
import multiprocessing
import sys
import urllib.request
from concurrent.futures import ProcessPoolExecutor

import xllamacpp


def serve(path: str) -> xllamacpp.Server:
    """A server on a free port of this machine. All map the same memory: there is one copy."""
    options = xllamacpp.CommonParams()
    options.model.path = path
    options.n_ctx = 256
    options.warmup = False
    return xllamacpp.Server(options)


def ask(server: xllamacpp.Server, prompt: str) -> str:
    body = json.dumps({"prompt": prompt, "max_tokens": 6, "temperature": 0}).encode()
    url = f"{server.listening_address}/v1/completions"
    asked = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(asked, timeout=120) as answer:  # noqa: S310
        return json.load(answer)["choices"][0]["text"]


def open_another(path: str) -> None:
    """At the start of a worker, which opens the file by itself."""
    global another
    another = serve(path)
    print(f"{multiprocessing.current_process().name} serves", flush=True)


def ask_another(prompt: str) -> str:
    return ask(another, prompt)


def main(path: str, prompt: str) -> None:
    server = serve(path)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn, open_another, (path,)) as workers:
        others = workers.map(ask_another, [prompt] * 2)
        print(prompt + ask(server, prompt))
        for text in others:
            print(prompt + text)


if __name__ == "__main__":
    match sys.argv[1:]:
        case [path, prompt]:
            main(path, prompt)
        case _:
            print("usage: run_llama_server.py PATH PROMPT", file=sys.stderr)
            sys.exit(2)
