"""ONNX models out of a vault, by onnxruntime, each in processes of its own.

modelvault create reader && modelvault push ./reader reader:prod
modelvault run reader:prod --purpose inference -- python examples/run_onnxruntime.py {model}
"""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime

sessions: dict[str, onnxruntime.InferenceSession] = {}


def open_models(folder: str) -> None:
    """At the start of each process, which opens the files by itself."""
    for path in sorted(Path(folder).glob("*.onnx")):
        sessions[path.name] = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    print(f"{multiprocessing.current_process().name} opened {len(sessions)}", flush=True)


def infer(name: str) -> str:
    """The mean of what the network makes of a grey picture."""
    (wanted, *_) = sessions[name].get_inputs()
    shape = [extent if isinstance(extent, int) else 64 for extent in wanted.shape]
    shape[0] = 1
    result, *_ = sessions[name].run(None, {wanted.name: np.full(shape, 0.5, np.float32)})
    return f"{name}: {result.shape}, mean {result.mean():.6f}"


def main(folder: str) -> None:
    open_models(folder)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn, open_models, (folder,)) as workers:
        others = workers.map(infer, sessions)
        for here, there in zip(map(infer, sessions), others, strict=True):
            print(here)
            print(there)


if __name__ == "__main__":
    match sys.argv[1:]:
        case [folder]:
            main(folder)
        case _:
            print("usage: run_onnxruntime.py FOLDER", file=sys.stderr)
            sys.exit(2)
