"""The JSON lines of `make bench` as README's table: `make bench | python tests/bench/table.py`."""

from __future__ import annotations

import json
import sys


def shown(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value / (1 << 20):,.0f} MiB"
    if unit == "1/s":
        return f"{value:,.0f} /s"
    return f"{value * 1000:,.1f} ms" if value < 0.01 else f"{value * 1000:,.0f} ms"


def main() -> None:
    print("| what | case | ours | other | | ratio | goal |")
    print("|---|---|---|---|---|---|---|")
    for text in sys.stdin:
        line = json.loads(text)
        if "ratio" not in line:
            continue  # the machine, or a figure that is compared elsewhere
        ours, other = (shown(line[side], line["unit"]) for side in ("ours", "other"))
        met = "" if line["holds"] else " (missed)"
        print(
            f"| {line['bench']} | {line['case']} | {ours} | {other} | {line['other_name']} "
            f"| {line['ratio']:.2f} | {line['goal']:g}{met} |"
        )


if __name__ == "__main__":
    main()
