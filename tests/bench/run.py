"""`make bench`: the figures of README.md and docs/speed.md, one JSON line each.

    python tests/bench/run.py [--effort quick|full] [--only NAME,...] [--folder DIR] [--keep FILE]

Full takes a quarter of an hour on two quiet cores, files of up to 4 GiB under DIR (default: a new
folder under this checkout's `build/`), and the servers of `make servers`; quick takes two minutes
and 1 GiB. What this machine has no room, package or server for is "not measured", and says why.
Everything is removed at the end. Ratios are of medians of interleaved runs. FILE (default:
`build/bench.jsonl`) gets the lines too; `make bench-report` draws docs/speed.md from it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1]))  # support: the servers

from catalogue import catalogue_cases
from contest import Shape
from load import load_case, push_case
from loads import FULL, QUICK, heats
from machine import describe
from measure import keep
from memory import memory_cases
from parts import parts_case
from served import lease_cases, s3_cases
from small import command_case, first_tensor_case, lease_case, one_tensor_case
from weights import GIB

MIB = 1 << 20
BUILD = Path(__file__).parents[2] / "build"

Cases = dict[str, Callable[[Path], None]]


def cases(effort: str) -> Cases:
    """By name, in the order that they run in; each gets a folder that doesn't exist yet."""
    large = GIB if effort == "full" else GIB // 8
    chosen: Cases = {
        "parts": lambda folder: parts_case(folder, large),
        "command": lambda _: command_case(),
        "lease": lease_case,
        "loads": lambda folder: heats(FULL if effort == "full" else QUICK, folder),
        "large": lambda folder: load_case(folder, str(Shape(large, 32)), large, 32),
        "many": lambda folder: load_case(folder, "64 MiB, 512 tensors", 64 * MIB, 512),
        "push": lambda folder: push_case(folder, large),
        "one": lambda folder: one_tensor_case(folder, large),
        "first": lambda folder: first_tensor_case(folder, large),
        "memory": lambda folder: memory_cases(folder, (large // 4, large)),
    }
    if effort == "full":
        chosen |= {"leases": lease_cases, "s3": s3_cases, "catalogue": catalogue_cases}
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--effort", choices=("quick", "full"), default="full")
    parser.add_argument("--only", default="", help="names of cases, separated by commas")
    parser.add_argument("--folder", type=Path, default=BUILD)
    parser.add_argument("--keep", type=Path, default=BUILD / "bench.jsonl")
    told = parser.parse_args()
    chosen = cases(told.effort)
    wanted = [name for name in told.only.split(",") if name] or list(chosen)
    unknown = set(wanted) - set(chosen)
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(chosen)}")
    told.folder.mkdir(parents=True, exist_ok=True)
    keep(told.keep)
    describe(told.effort)
    work = Path(tempfile.mkdtemp(prefix="bench-", dir=told.folder))
    failed = []
    try:
        for name in wanted:
            try:
                chosen[name](work / name)
            except Exception:  # noqa: BLE001 - the figures of the other cases are not lost for it
                traceback.print_exc()
                failed.append(name)
            finally:
                shutil.rmtree(work / name, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
