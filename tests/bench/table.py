"""The JSON lines of `make bench` as README's table: `make bench | python tests/bench/table.py`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any


def shown(value: float, unit: str) -> str:
    """A figure as people say it: bytes in MiB, seconds in ms, or how many a second."""
    if unit == "bytes":
        return f"{value / (1 << 20):,.0f} MiB"
    if unit == "1/s":
        return f"{value:,.0f} /s"
    return f"{value * 1000:,.1f} ms" if value < 0.01 else f"{value * 1000:,.0f} ms"


def rows(lines: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The table in Markdown. Lines about the machine, and figures without a goal, aren't in it."""
    yield "| what | case | ours | other | | ratio | goal |"
    yield "|---|---|---|---|---|---|---|"
    for line in lines:
        if "ratio" in line:
            ours, other = (shown(line[side], line["unit"]) for side in ("ours", "other"))
            met = "" if line["holds"] else " (missed)"
            yield (
                f"| {line['bench']} | {line['case']} | {ours} | {other} | {line['other_name']} "
                f"| {line['ratio']:.2f} | {line['goal']:g}{met} |"
            )


if __name__ == "__main__":
    print("\n".join(rows([json.loads(text) for text in sys.stdin])))
