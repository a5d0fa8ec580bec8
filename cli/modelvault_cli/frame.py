"""What all commands share: the global options, examples in the help, and lazy loading.

Nothing here imports the vault: `modelvault --help` must cost little more than Python itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    import os

    from modelvault.client.session import Session

WIDTH = 100


class Globals:
    """The global options of one call, wherever on the line they stood."""

    def __init__(self) -> None:
        self.home: Path | None = None
        self.broker: str | None = None
        self.profile: str | None = None
        self.cache: Path | None = None
        self.json = False
        self.verbose = False
        # Whether output and exit code are those of a program that is run: ours are told apart.
        self.passes_on = False

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session with the vault that the options name. With --verbose, its log is on stderr."""
        from modelvault import wiring

        if self.verbose:
            import logging

            logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")

        with wiring.connect(
            self.broker, home=self.home, profile=self.profile, cache=self.cache
        ) as session:
            yield session


class Declined(Exception):
    """The person was asked, and said no."""


pass_globals = click.make_pass_decorator(Globals, ensure=True)


class _NamedPath(click.Path):
    """Any path but the empty text: an unset variable mustn't mean the current folder."""

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str | bytes | os.PathLike[str]:
        if value == "":
            self.fail("it is empty; the current folder is named by a dot", param, ctx)
        return super().convert(value, param, ctx)


# Whether it can be read is found out by whoever reads it, and told as where a variable names it.
NAMED_PATH = _NamedPath(path_type=Path, readable=False)
# As it was typed: a Path forgets the `./` that tells a folder from a model's name.
TYPED_PATH = _NamedPath(path_type=str, readable=False)


def _keep(context: click.Context, parameter: click.Parameter, value: object) -> None:
    # Given both before and after the subcommand, the later one counts; what isn't given must not
    # undo what was.
    if value is not None and value is not False:
        setattr(context.ensure_object(Globals), parameter.name or "", value)


def _global_parameters(*, hidden: bool) -> list[click.Parameter]:
    settings: dict[str, Any] = {
        "expose_value": False, "is_eager": True, "callback": _keep, "hidden": hidden,
    }  # fmt: skip
    return [
        click.Option(
            ["--home"], type=NAMED_PATH, metavar="DIR", **settings,
            help="The vault's folder. [env: MODELVAULT_HOME; default: ~/.modelvault]",
        ),
        click.Option(
            ["--broker"], metavar="URL", **settings,
            help="A broker to talk to instead of a folder.",
        ),
        click.Option(
            ["--profile"], metavar="NAME", **settings, help="A named set of settings."
        ),
        click.Option(
            ["--cache"], type=NAMED_PATH, metavar="DIR", **settings,
            help="A folder that keeps a broker's ciphertext for later. [env: MODELVAULT_CACHE]",
        ),
        click.Option(
            ["--json"], is_flag=True, **settings, help="Print one JSON document, also for errors."
        ),
        click.Option(["--verbose", "-v"], is_flag=True, **settings, help="Say more on stderr."),
    ]  # fmt: skip


def take_globals(command: click.Command, *, hidden: bool) -> None:
    """Let a command take the global options too; hidden ones work, its help is silent on them."""
    command.params += _global_parameters(hidden=hidden)


class Command(click.Command):
    """A command whose help ends with examples."""

    examples: tuple[str, ...] = ()
    passes_on = False

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,  # noqa: ANN401  click's signature
    ) -> click.Context:
        """As click's; whose exit code this is counts for mistakes on the line, too."""
        if parent is not None:
            parent.ensure_object(Globals).passes_on = self.passes_on
        return super().make_context(info_name, args, parent, **extra)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's, whose parser doesn't say for each mistake which command it is in."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def format_epilog(
        self,
        ctx: click.Context,  # noqa: ARG002  click's signature
        formatter: click.HelpFormatter,
    ) -> None:
        """Examples, and where the global options are told of."""
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"  {example}\n")
        formatter.write("\nGlobal options (--home, --json, -v …): see modelvault --help.\n")


def command(
    name: str, *examples: str, passes_on: bool = False
) -> Callable[[Callable[..., object]], Command]:
    """A click command with the global options and its examples.

    What the function returns is the exit code, where that is a whole number. `passes_on` where
    exit code and stdout are those of another program.
    """

    def decorate(function: Callable[..., object]) -> Command:
        made: Command = click.command(name, cls=Command)(function)
        take_globals(made, hidden=True)
        made.examples = examples
        made.passes_on = passes_on
        return made

    return decorate


def group(name: str, summary: str) -> click.Group:
    """A group of commands, the global options included."""

    def nothing() -> None:
        """Its subcommands do the work."""

    made = click.Group(name, help=summary, callback=nothing, no_args_is_help=True)
    take_globals(made, hidden=True)
    return made


class Entry(NamedTuple):
    """A subcommand not imported yet: its section, `module:attribute`, and its line in the help."""

    section: str
    target: str
    summary: str


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is called, and lists it without importing it."""

    entries: Mapping[str, Entry] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """The names, in the order of the help."""
        return list(self.entries)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002  click's signature
        cmd_name: str,
    ) -> click.Command | None:
        """The command, imported now; None where there is no such one."""
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        module, attribute = entry.target.split(":")
        found = getattr(import_module(f"modelvault_cli.commands.{module}"), attribute)
        return found if isinstance(found, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, but the message for an unknown name tells of the nearest ones."""
        name = args[0]
        if name not in self.entries and not name.startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(name, self.entries, n=3)
            meant = f" Did you mean {' or '.join(near)}?" if near else ""
            ctx.fail(f"No such command {name!r}.{meant}")
        return super().resolve_command(ctx, args)

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002  click's signature
        formatter: click.HelpFormatter,
    ) -> None:
        """The commands by section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, entry in self.entries.items():
            sections.setdefault(entry.section, []).append((name, entry.summary))
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)
