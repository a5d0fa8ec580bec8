"""docs/speed.md is what `make bench-report` makes of the lines beside it; README's table too."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import figures
import page
import pytest
from figures import Bar, Line

ROOT = Path(__file__).parents[2]
LINES = [json.loads(line) for line in (page.FOLDER / "lines.jsonl").read_text("utf-8").splitlines()]
SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [found.text or "" for found in ET.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314 ours


def load(contestant: str, label: str, **figures: object) -> dict:
    where = {"size": 1 << 26, "tensors": 4, "cache": "warm", "threads": 2}
    if "missing" not in figures:
        figures |= {"cpu_s": 0.2, "read_bytes": 3 << 20, "disk_bytes": 5 << 20}
    return {"reading": "load", **where, "contestant": contestant, "label": label, **figures}


MACHINE = {
    "machine": {
        "cpu": "A Processor", "cores": 2, "memory_bytes": 8 << 30, "kernel": "Linux 1",
        "huge_pages": "madvise", "python": "3.11", "packages": {"numpy": "2"}, "cuda": "no device",
    },
    "date": "2026-01-02", "effort": "full",
}  # fmt: skip
MISSED = {
    "bench": "load", "case": "large", "ours": 0.2, "other": 0.1, "other_name": "a rival",
    "unit": "s", "ratio": 2.0, "goal": 1.5, "holds": False,
}  # fmt: skip
MET = MISSED | {"case": "small", "ours": 0.1, "ratio": 1.0, "holds": True}
FEW = [
    MACHINE,
    load("rival", "A <rival>", first_s=0.01, total_s=0.3, peak_bytes=1 << 20),
    load("ours", "ours", first_s=0.02, total_s=0.1, peak_bytes=2 << 20),
    load("absent", "an absent one", missing="no module named absent"),
    MISSED,
    MET,
]


def test_the_page_and_its_plots_are_what_the_lines_say() -> None:
    made = page.files(LINES)
    found = {"speed.md": (page.FOLDER.parent / "speed.md").read_text("utf-8")}
    found |= {f"speed/{each.name}": each.read_text("utf-8") for each in page.FOLDER.glob("*.svg")}
    assert found == made, "run `make bench-report`"


def test_the_readmes_table_is_of_the_same_run() -> None:
    front = (ROOT / "README.md").read_text("utf-8")
    assert front == page.readme(front, LINES), "run `make bench-report`"


def test_every_goal_that_was_missed_is_said() -> None:
    _, _, losses = page.page(FEW).partition("## Where we lose")
    losses, _, _ = losses.partition("## Not measured")
    assert "large: 200 ms against 100 ms (a rival), 2.00; the goal is 1.5" in losses
    assert "small" not in losses


def test_what_was_not_measured_says_why() -> None:
    _, _, absent = page.page(FEW).partition("## Not measured")
    assert "an absent one: no module named absent (64 MiB, 4 tensors, warm, 2 threads)" in absent
    assert "no device" in absent
    assert "not measured" in texts(page.files(FEW)["speed/warm.svg"])


def test_every_load_is_told_in_full() -> None:
    _, _, told = page.page(FEW).partition("## All loads")
    where = "64 MiB, 4 tensors, warm, 2 threads"
    assert f"| {where} | ours | 20 ms | 100 ms | 200 ms | 2 MiB | 3 MiB | 5 MiB |" in told
    assert "an absent one" not in told


def test_the_machine_and_the_day_are_named() -> None:
    text = page.page(FEW)
    assert "2 cores of A Processor" in text
    assert "2026-01-02" in text


def test_the_readme_keeps_its_words_around_the_table() -> None:
    front = f"before\n{page.BEGIN}old\n{page.END}\nafter"
    made = page.readme(front, FEW)
    assert made.startswith("before\n")
    assert made.endswith("\nafter")
    assert "| load | large | 200 ms |" in made
    assert "old" not in made
    shortened = [MACHINE | {"effort": "quick"}, MISSED]
    assert page.readme(front, shortened) == front
    with pytest.raises(ValueError, match="no place"):
        page.readme("without", FEW)


def test_the_fastest_comes_first_and_names_are_escaped() -> None:
    told = texts(page.files(FEW)["speed/warm.svg"])
    assert [text for text in told if text in {"ours", "A <rival>"}] == ["ours", "A <rival>"]


def test_bars_are_as_long_as_their_values() -> None:
    svg = figures.bars("t", "n", [Bar("a", 1.0, "1"), Bar("b", 2.0, "2", ours=True)])
    boxes = [box for box in ET.fromstring(svg).iter(f"{SVG}rect")]  # noqa: S314, C416 ours
    short, long = (float(box.get("width", "0")) for box in boxes)
    assert long == pytest.approx(2 * short)
    assert [box.get("class") for box in boxes] == ["bar", "bar ours"]
    assert "prefers-color-scheme: dark" in svg


def test_labels_of_lines_do_not_lie_on_each_other() -> None:
    same = [Line(name, [(1.0, 1.0), (10.0, 5.0)]) for name in "abc"]
    ticks = [(1.0, "1"), (10.0, "10")]
    svg = figures.lines("t", "n", same, ticks, ticks)
    places = sorted(
        float(text.get("y", "0"))
        for text in ET.fromstring(svg).iter(f"{SVG}text")  # noqa: S314 ours
        if text.text in {"a", "b", "c"}
    )
    assert min(b - a for a, b in itertools.pairwise(places)) >= 16
