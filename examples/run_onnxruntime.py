"""ONNX models out of a vault, by onnxruntime, each in processes of its own.

modelvault create reader && modelvault push ./reader reader:prod
modelvault run reader:prod --purpose inference -- python examples/run_onnxruntime.py {model}
"""

import multiprocessing
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def infer(path: Path) -> str:
    """The mean of what the network makes of a grey picture; whoever calls this opens the file."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (wanted, *_) = session.get_inputs()
    shape = [extent if isinstance(extent, int) else 64 for extent in wanted.shape]
    shape[0] = 1
    result, *_ = session.run(None, {wanted.name: np.full(shape, 0.5, np.float32)})
    return f"{path.name}: {result.shape}, mean {result.mean():.6f}"


def main(folder: str) -> None:
    paths = sorted(Path(folder).glob("*.onnx"))
    with multiprocessing.get_context("spawn").Pool(2) as workers:
        others = workers.map_async(infer, paths, chunksize=1)
        for here, there in zip(map(infer, paths), others.get(), strict=True):
            print(here)
            print(there)


if __name__ == "__main__":
    main(*sys.argv[1:])
