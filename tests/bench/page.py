"""`make bench-report`: docs/speed.md, its plots and README's table, all from one run's lines.

    python tests/bench/page.py [LINES]

LINES (default: `build/bench.jsonl`, which `make bench` writes) is kept as docs/speed/lines.jsonl.
The page says what the lines say, and nothing that they don't: a test makes it anew from them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import plots
from table import rows, shown

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "speed"
BEGIN, END = "<!-- numbers: begin -->\n", "<!-- numbers: end -->"

Record = dict[str, Any]


def files(lines: Sequence[Record]) -> dict[str, str]:
    """{path in docs/: text} of the page and its plots."""
    drawn = {f"speed/{name}.svg": svg for name, (_, svg) in plots.all_of(lines).items()}
    return {"speed.md": page(lines), **drawn}


def page(lines: Sequence[Record]) -> str:
    """docs/speed.md."""
    about = next((line for line in lines if "machine" in line), None)
    if about is None:
        raise ValueError("these lines don't say of which machine they are: run `make bench` anew")
    sections = [
        "# How fast\n",
        _machine(about),
        _how(),
        *(
            f"## {plot.title}\n{plot.text}\n\n![{plot.title}](speed/{name}.svg)\n"
            for name, (plot, _) in plots.all_of(lines).items()
        ),
        _losses(lines),
        _absent(lines, about),
        "## All goals\nRatio = ours / other; lower is better.\n\n" + "\n".join(rows(lines)) + "\n",
        _everything(lines),
    ]
    return "\n".join(sections)


def readme(text: str, lines: Sequence[Record]) -> str:
    """README.md with its table made of these lines; as it was after a shortened run."""
    if any(line.get("effort") == "quick" for line in lines):
        return text
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError("README.md has no place for the numbers")
    return before + BEGIN + "\n".join(rows(_front(lines))) + "\n" + END + after


def _front(lines: Sequence[Record]) -> list[Record]:
    """What README shows of the races: one file, as many threads as everybody was given."""

    def shown_there(line: Record) -> bool:
        bench = line.get("bench", "")
        raced = bench.startswith(("load, warm", "load, cold"))
        return not raced or (bench.endswith("2 threads") and line["case"].startswith("1 GiB"))

    return [line for line in lines if shown_there(line)]


def _machine(about: Record) -> str:
    machine = about["machine"]
    packages = ", ".join(f"{name} {found}" for name, found in machine["packages"].items())
    kind = "A shortened run (`BENCH=quick`)" if about["effort"] == "quick" else "One run"
    return (
        f"{kind} of `make bench` on {about['date']}: {machine['cores']} cores of "
        f"{machine['cpu']}, {machine['memory_bytes'] / (1 << 30):.0f} GiB of memory, "
        f"{machine['kernel']}, huge pages: {machine['huge_pages']}. Python {machine['python']}, "
        f"{packages}.\n\n"
        "This page is made by `make bench-report` from the lines that `make bench` printed, kept "
        "as [speed/lines.jsonl](speed/lines.jsonl); other machines give other figures.\n"
    )


def _how() -> str:
    return (
        "All contestants load the same tensors in one interleaved run, each in a process of its "
        "own, and touch every page of them; medians count. A load of ours is all of it: lease, "
        "policy, audit entries, signatures, every byte hashed and decrypted, memory wiped. Warm: "
        "the file is in the page cache. Cold: it was put out of it, which is checked before each "
        "round. S3 is a server on the same machine, so it shares the cores. The thin mark on a "
        "bar is the time to the first tensor. Contestants that read past the page cache "
        "(the Run:ai streamer, fastsafetensors) pay for the disk when warm, too.\n"
    )


def _losses(lines: Sequence[Record]) -> str:
    missed = [line for line in lines if "ratio" in line and not line["holds"]]
    text = ["## Where we lose\n"]
    if not missed:
        text.append("Nowhere against the goals of this run.\n")
    for line in missed:
        ours, other = (shown(line[side], line["unit"]) for side in ("ours", "other"))
        text.append(
            f"- {line['bench']}, {line['case']}: {ours} against {other} "
            f"({line['other_name']}), {line['ratio']:.2f}; the goal is {line['goal']:g}."
        )
    return "\n".join([*text, "", *_why(lines)])


def _why(lines: Sequence[Record]) -> list[str]:
    """What the machine's own speed says about a load, computed from the parts."""
    spent = {line["part"]: line["cpu_s"] for line in lines if line.get("reading") == "part"}
    about = next(line["machine"] for line in lines if "machine" in line)
    if not spent:
        return []
    cores = about["cores"]
    least = 1000 * sum(spent.values()) / cores
    crypto = 1000 * (spent["check"] + spent["decrypt"]) / cores
    return [
        "Mapping a plain file copies nothing and looks at nothing: the floor under every loader "
        "that reads, and out of reach for one that decrypts with few cores. On this machine a GiB "
        "costs "
        f"{crypto:.0f} ms of {cores} cores for hashing and decrypting alone, and {least:.0f} ms "
        "with what else can't be left out (see the first plot): reading the ciphertext into a "
        "buffer of our own, so that nobody changes it between its check and its use; memory that "
        "the kernel zeroes; and zeroing it again. Small models pay for the lease: a decision, and "
        "audit entries that are on the disk before a key is given.\n",
    ]


def _absent(lines: Sequence[Record], about: Record) -> str:
    told: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        if "missing" in line:
            told.setdefault((line["label"], line["missing"]), []).append(plots.where(line))
    text = ["## Not measured\n", _device(about["machine"])]
    for (label, why), places in told.items():
        text.append(f"- {label}: {why} ({'; '.join(dict.fromkeys(places))}).")
    return "\n".join([*text, ""])


def _everything(lines: Sequence[Record]) -> str:
    """Each race's figures, in the order that they were taken."""
    text = [
        "## All loads",
        "Seconds are wall time, but for the processor's; memory is above what the process held "
        "before. Bytes read by calls don't count what a mapping or a socket brings; from the disk "
        "counts all that wasn't in the page cache.\n",
        "| load | by | first tensor | all | processor | peak memory | by calls | from the disk |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        if line.get("reading") == "load" and "missing" not in line:
            seconds = (shown(line[name], "s") for name in ("first_s", "total_s", "cpu_s"))
            sizes = (shown(line[name], "bytes") for name in ("peak_bytes", "read_bytes"))
            disk = shown(line["disk_bytes"], "bytes")
            cells = (plots.where(line), line["label"], *seconds, *sizes, disk)
            text.append(f"| {' | '.join(cells)} |")
    return "\n".join([*text, ""])


def _device(machine: Record) -> str:
    return f"- Copies to a device ({machine['cuda']})."


def main() -> None:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "bench.jsonl"
    text = source.read_text("utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    made = files(lines)
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.svg"):
        old.unlink()
    for name, content in made.items():
        (FOLDER.parent / name).write_text(content, "utf-8")
    (FOLDER / "lines.jsonl").write_text(text, "utf-8")
    front = ROOT / "README.md"
    front.write_text(readme(front.read_text("utf-8"), lines), "utf-8")


if __name__ == "__main__":
    main()
