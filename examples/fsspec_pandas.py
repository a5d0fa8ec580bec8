"""Tables and weights out of a vault, by the names that pandas and safetensors know.

modelvault create data && modelvault push ./folder data:prod
python examples/fsspec_pandas.py data:prod table.csv model.safetensors
"""

import sys

import fsspec
import pandas
import safetensors
import safetensors.numpy


def main(reference: str, table: str, weights: str) -> None:
    # One changed line: the address, and what for. Nothing is written to a disk.
    frame = pandas.read_csv(
        f"modelvault://{reference}/{table}", storage_options={"purpose": "inference"}
    )
    print(f"{table}: {len(frame)} rows of {', '.join(frame.columns)}")

    # Whoever opens many files holds on to a file system: it keeps one lease for all of them.
    fs = fsspec.filesystem("modelvault", purpose="inference")
    print("files:", ", ".join(fs.find(reference)))

    # All tensors: `cat` gives bytes, a copy beside the loader's memory.
    tensors = safetensors.numpy.load(fs.cat(f"{reference}/{weights}"))
    print(f"{weights}: {', '.join(sorted(tensors))}")

    # safe_open wants a file's name: `path` gives one in memory.
    with safetensors.safe_open(fs.path(f"{reference}/{weights}"), "numpy") as opened:
        print("by name:", ", ".join(sorted(opened.keys())))
    fs.close()


if __name__ == "__main__":
    match sys.argv[1:]:
        case [reference, table, weights]:
            main(reference, table, weights)
        case _:
            print("usage: fsspec_pandas.py REFERENCE TABLE WEIGHTS", file=sys.stderr)
            sys.exit(2)
