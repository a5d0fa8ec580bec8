"""Which plots docs/speed.md has, and what of a run's lines goes into each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import figures
import msgspec
from figures import Bar, Line
from table import shown
from weights import human

Record = dict[str, Any]
_DECADES = tuple((10.0**power / 1000, text) for power, text in enumerate(
    ("1 ms", "10 ms", "100 ms", "1 s", "10 s")
))  # fmt: skip


class Plot(msgspec.Struct, frozen=True):
    """What stands over a plot and beside it."""

    title: str
    text: str


def all_of(lines: Sequence[Record]) -> dict[str, tuple[Plot, str]]:
    """{name: (plot, SVG)} of all for which there are lines, in the order of the page."""
    loads = [line for line in lines if line.get("reading") == "load"]
    found: dict[str, tuple[Plot, str]] = {}
    _parts(found, lines)
    for cache, title in (("warm", "Loading from a warm page cache"), ("cold", "Loading cold")):
        _totals(found, loads, cache, title)
    _first(found, loads)
    _threads(found, loads)
    _sizes(found, loads)
    _many(found, loads)
    _from_s3(found, loads)
    _memory(found, loads)
    return found


def where(line: Record) -> str:
    """One race in words."""
    threads = f"{line['threads']} thread{'s' * (line['threads'] > 1)}"
    return f"{human(line['size'])}, {line['tensors']} tensors, {line['cache']}, {threads}"


def _parts(found: dict[str, tuple[Plot, str]], lines: Sequence[Record]) -> None:
    parts = [line for line in lines if line.get("reading") == "part"]
    rows = [Bar(line["label"], line["cpu_s"], shown(line["cpu_s"], "s"), True) for line in parts]
    if rows:
        plot = Plot(
            "What a load is made of",
            "Processor time of each step over a GiB, by itself and on one core; a load divides "
            "their sum among its cores.",
        )
        found["parts"] = plot, figures.bars(plot.title, "one GiB, one core", rows)


def _race(loads: Sequence[Record], cache: str, *, many: bool = False) -> list[Record]:
    """The lines of the race with the most contestants over the largest file, at two threads."""
    races: dict[tuple[int, int], list[Record]] = {}
    for line in loads:
        if line["cache"] == cache and line["threads"] == 2 and many == (line["tensors"] > 1000):
            races.setdefault((line["size"], line["tensors"]), []).append(line)
    return max(races.items(), key=lambda race: (len(race[1]), race[0]), default=((0, 0), []))[1]


def _rows(race: Sequence[Record], value: Callable[[Record], float], unit: str) -> list[Bar]:
    """The fastest first; what wasn't measured at the end."""
    there = sorted((line for line in race if "missing" not in line), key=value)
    return [
        *(
            Bar(
                line["label"],
                value(line),
                shown(value(line), unit),
                _is_ours(line),
                line["first_s"] if unit == "s" and value(line) > line["first_s"] else None,
            )
            for line in there
        ),
        *(Bar(line["label"], None, "not measured") for line in race if "missing" in line),
    ]


def _is_ours(line: Record) -> bool:
    return "ours" in line["contestant"]


def _total(line: Record) -> float:
    return float(line["total_s"])


def _totals(
    found: dict[str, tuple[Plot, str]], loads: Sequence[Record], cache: str, title: str
) -> None:
    race = _race(loads, cache)
    if race:
        plot = Plot(title, f"{where(race[0])}: until every page was touched and all let go.")
        found[cache] = plot, figures.bars(title, where(race[0]), _rows(race, _total, "s"))


def _first(found: dict[str, tuple[Plot, str]], loads: Sequence[Record]) -> None:
    race = _race(loads, "cold")
    if race:
        plot = Plot("Time to the first tensor", f"{where(race[0])}.")
        rows = _rows(race, lambda line: float(line["first_s"]), "s")
        found["first"] = plot, figures.bars(plot.title, where(race[0]), rows)


def _threads(found: dict[str, tuple[Plot, str]], loads: Sequence[Record]) -> None:
    warm = [line for line in loads if line["cache"] == "warm" and "missing" not in line]
    shapes: dict[tuple[int, int], set[int]] = {}
    for line in warm:
        shapes.setdefault((line["size"], line["tensors"]), set()).add(line["threads"])
    shape, counts = max(
        shapes.items(), key=lambda each: (len(each[1]), each[0]), default=(None, ())
    )
    if len(counts) < 2:
        return
    mine = [line for line in warm if (line["size"], line["tensors"]) == shape]
    chosen = {line["contestant"] for line in mine if line["threads"] == min(counts)}
    rows = [
        Bar(
            f"{line['label']}, {line['threads']}",
            _total(line),
            shown(_total(line), "s"),
            _is_ours(line),
        )
        for line in sorted(mine, key=lambda line: (line["label"], line["threads"]))
        if line["contestant"] in chosen
    ]
    note = f"{human(mine[0]['size'])}, {mine[0]['tensors']} tensors, warm"
    plot = Plot("Threads", f"{note}; the number behind each name is how many threads it was given.")
    found["threads"] = plot, figures.bars(plot.title, note, rows)


def _sizes(found: dict[str, tuple[Plot, str]], loads: Sequence[Record]) -> None:
    series: dict[str, dict[int, Record]] = {}
    for line in loads:
        few = line["threads"] == 2 and line["tensors"] <= 1000
        if line["cache"] == "warm" and few and "missing" not in line:
            series.setdefault(line["label"], {})[line["size"]] = line
    sizes = sorted({size for points in series.values() for size in points})
    lines = [
        Line(
            label,
            [(size, max(_total(points[size]), 0.0001)) for size in sorted(points)],
            _is_ours(next(iter(points.values()))),
        )
        for label, points in series.items()
        if len(points) >= max(3, len(sizes) - 1)  # the largest isn't for everybody
    ]
    if not lines:
        return
    plot = Plot("From small to large", "Few tensors, a warm page cache; both scales logarithmic.")
    ticks = [(float(size), human(size)) for size in sizes]
    decades = ((0.0001, "0.1 ms"), *_DECADES)
    found["sizes"] = plot, figures.lines(plot.title, "seconds by size", lines, ticks, decades)


def _many(found: dict[str, tuple[Plot, str]], loads: Sequence[Record]) -> None:
    race = _race(loads, "warm", many=True)
    if race:
        plot = Plot("Many small tensors", f"{where(race[0])}.")
        found["many"] = plot, figures.bars(plot.title, where(race[0]), _rows(race, _total, "s"))


def _from_s3(found: dict[str, tuple[Plot, str]], loads: Sequence[Record]) -> None:
    race = [line for line in loads if line["cache"] == "s3"]
    if race:
        plot = Plot("Loading from S3", f"{where(race[0])}; the server is on the same machine.")
        found["s3"] = plot, figures.bars(plot.title, where(race[0]), _rows(race, _total, "s"))


def _memory(found: dict[str, tuple[Plot, str]], loads: Sequence[Record]) -> None:
    race = _race(loads, "warm")
    if race:
        plot = Plot(
            "Peak memory",
            f"{where(race[0])}: resident bytes above what the process held before, as the kernel "
            "counts them. Pages of a mapped file count, though others may share them.",
        )
        rows = _rows(race, lambda line: float(line["peak_bytes"]), "bytes")
        found["memory"] = plot, figures.bars(plot.title, where(race[0]), rows)
