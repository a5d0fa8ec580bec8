"""The columns of the progress bar, in the units that all our lines have."""

from __future__ import annotations

from rich.progress import ProgressColumn, Task
from rich.text import Text

from modelvault_cli.output import size


class Sizes(ProgressColumn):
    """`12.0 MiB of 86.7 MiB`; nothing before anything was told."""

    def render(self, task: Task) -> Text:
        """As rich calls it."""
        if task.total is None:
            return Text()
        return Text(f"{size(int(task.completed))} of {size(int(task.total))}")


class Speed(ProgressColumn):
    """`240.1 MiB/s`; nothing before it is known."""

    def render(self, task: Task) -> Text:
        """As rich calls it."""
        speed = task.finished_speed or task.speed
        return Text(f"{size(int(speed))}/s" if speed else "")
