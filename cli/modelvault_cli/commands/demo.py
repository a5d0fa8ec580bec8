"""`demo`: the whole of it on a real model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from modelvault_cli.frame import Globals, command, pass_globals

if TYPE_CHECKING:
    from modelvault_cli.documents import Demo, Step


@command("demo", "modelvault demo", "modelvault demo --keep")
@click.option("--keep", is_flag=True, help="Leave the vault there, and say where it is.")
@pass_globals
def demo(options: Globals, keep: bool) -> int:
    """Push, load and attack a real sentence encoder in a vault of its own, in half a minute.

    Everything happens in a temporary folder, which is removed at the end. Each step says what it
    saw; the exit code is 1 when one of them isn't as it should be.
    """
    from modelvault.clock import boot_ms
    from modelvault_cli.demo.stage import Stage, Unexpected
    from modelvault_cli.demo.world import world
    from modelvault_cli.documents import Demo
    from modelvault_cli.output import emit, talk

    with world(keep=keep) as place:
        from modelvault_cli.demo.walk import Walk  # needs what `world` has just looked for

        stage = Stage(_silent if options.json else _tell, boot_ms)
        walk = Walk(place, stage)
        try:
            walk.run()
            passed = True
        except Unexpected:
            passed = False
        document = Demo(
            passed=passed,
            steps=tuple(stage.steps),
            entries=walk.entries,
            kept=str(place.folder) if keep else None,
        )
        emit(options, document, _lines(document))
        if keep:
            talk(f"the vault is in {place.home}, its root key in {place.folder / 'config'}")
    return 0 if passed else 1


def _tell(step: Step) -> None:
    from modelvault_cli.output import printable

    click.echo(f"{'✓' if step.ok else '✗'} {step.title}")
    click.echo(f"    {printable(step.seen)}")


def _silent(_step: Step) -> None:
    """The document at the end tells of it."""


def _lines(document: Demo) -> list[str]:
    from modelvault_cli.commands.audit import entry_lines
    from modelvault_cli.output import seconds, table

    times = table(
        ("TIME", "STEP"), ((seconds(step.elapsed_ms), step.title) for step in document.steps)
    )
    total = seconds(sum(step.elapsed_ms for step in document.steps))
    verdict = "everything was as it should be" if document.passed else "NOT as it should be"
    return ["", *entry_lines(document.entries), "", *times, "", f"{verdict} ({total})"]
