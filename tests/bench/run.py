"""`make bench`: one JSON line for each figure of the README.

    python tests/bench/run.py [--folder DIR]

Files of 1 GiB are made under DIR (default: a new folder beside this checkout's `build/`), which
needs 4 GiB free; everything is removed at the end. Ratios are of medians of interleaved runs.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1]))  # support: the servers

from catalogue import catalogue_cases
from load import load_case, push_case
from memory import memory_cases
from served import lease_cases, s3_cases
from small import command_case, lease_case, one_tensor_case
from weights import GIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[2] / "build")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="bench-", dir=folder))
    try:
        command_case()
        lease_case(work / "lease")
        load_case(work / "load1g", "1 GiB, 32 tensors", GIB, 32)
        load_case(work / "load64m", "64 MiB, 512 tensors", GIB // 16, 512)
        push_case(work / "push", GIB)
        one_tensor_case(work / "one")
        memory_cases(work / "memory")
        lease_cases(work / "leases")
        s3_cases(work / "s3")
        catalogue_cases(work / "catalogue")
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
