"""An ONNX model out of a vault, its external data too; no bytes of it in a file.

modelvault create reader && modelvault push ./reader reader:prod
python examples/onnx_session.py reader:prod model.onnx
"""

import sys

import numpy as np

import modelvault


def main(reference: str, path: str) -> None:
    with (
        modelvault.connect() as vault,
        vault.load(reference, purpose="inference") as model,
    ):
        session = model.onnx_session(path, providers=["CPUExecutionProvider"])
        feeds = {}
        for wanted in session.get_inputs():  # extents without a number are left to the caller
            shape = [extent if isinstance(extent, int) else 2 for extent in wanted.shape]
            feeds[wanted.name] = np.ones(shape, np.float32)
        for told, result in zip(session.get_outputs(), session.run(None, feeds), strict=True):
            print(f"{told.name}: {result.shape}, mean {result.mean():.6f}")
        del session  # onnxruntime's own copy of the weights goes with it


if __name__ == "__main__":
    match sys.argv[1:]:
        case [reference, path]:
            main(reference, path)
        case _:
            print("usage: onnx_session.py REFERENCE PATH", file=sys.stderr)
            sys.exit(2)
