"""The `modelvault` command: its subcommands, its exit codes and the one handler of errors."""

from __future__ import annotations

import os
import sys

import click

from modelvault.errors import InvalidRequest, ModelVaultError, Unavailable
from modelvault_cli.frame import WIDTH, Declined, Entry, Globals, LazyGroup, take_globals

EXIT_CODES = {
    "invalid_request": 2,
    "access_denied": 3,
    "not_found": 4,
    "conflict": 4,
    "integrity": 5,
    "unavailable": 6,
    "authentication": 7,
}
# Where the exit code is that of a program that is run, ours are told from it as `env` and `docker
# run` do.
EXIT_PASSING = {"command_not_executable": 126, "command_not_found": 127}
EXIT_FAILED = 125
EXIT_NO = 1  # the command ran, and its answer is no
EXIT_INTERNAL = 70  # sysexits.h: EX_SOFTWARE
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE
COMPLETE = "_MODELVAULT_COMPLETE"  # what a shell's completion script sets

_USE, _ADMIN, _WATCH, _SELF = "Use models", "Administer", "Look after it", "Get to know it"
COMMANDS = {
    "push": Entry(_USE, "push:push", "Encrypt a model and put it in the vault as a new version."),
    "load": Entry(_USE, "load:load", "Decrypt a model in memory, show what it holds, wipe it."),
    "run": Entry(_USE, "run:run", "Run a command with a model as a folder in memory."),
    "hold": Entry(_USE, "hold:hold", "Fill a shared folder in memory, and keep the lease."),
    "pull": Entry(_USE, "copies:pull", "Copy a version's ciphertext to a folder."),
    "copy": Entry(_USE, "between:copy", "Copy a version into another vault."),
    "invite": Entry(_USE, "between:invite", "Begin an import that is carried by hand."),
    "import": Entry(_USE, "between:take_in", "Take in a folder that was pulled for this vault."),
    "export": Entry(_USE, "copies:export", "Write a model to a disk in the clear."),
    "list": Entry(_USE, "look:list_models", "List models."),
    "show": Entry(_USE, "look:show", "Show a model: versions, tags, provenance, labels."),
    "init": Entry(_ADMIN, "vault:init", "Make an embedded vault."),
    "found": Entry(_ADMIN, "service:found", "Make a vault that is served to many."),
    "serve": Entry(_ADMIN, "service:serve", "Serve a vault to many, over HTTP."),
    "migrate": Entry(_ADMIN, "migrate:migrate", "Bring a ledger, or a whole vault, elsewhere."),
    "create": Entry(_ADMIN, "models:create", "Create a model, with its key, ready for pushes."),
    "classify": Entry(_ADMIN, "models:classify", "Change a model's classification or owner."),
    "tag": Entry(_ADMIN, "models:tag", "Make a tag mean a version."),
    "delete": Entry(_ADMIN, "models:delete", "Hide a version or a model; gc removes it later."),
    "rotate": Entry(_ADMIN, "keys:rotate", "Rewrap a model's keys under a new key version."),
    "revoke": Entry(_ADMIN, "keys:revoke", "Revoke a principal, a lease or a version."),
    "lease": Entry(_ADMIN, "lease:lease", "List, show and revoke leases."),
    "policy": Entry(_ADMIN, "policy:policy", "Test, check, explain and publish policies."),
    "trust": Entry(_ADMIN, "trust:trust", "Export, update, pin and renew trust files."),
    "token": Entry(_ADMIN, "identity:token", "Mint short-lived tokens."),
    "audit": Entry(_WATCH, "audit:audit", "Read the audit log."),
    "login": Entry(_WATCH, "login:login", "Log in as a person, for a broker."),
    "logout": Entry(_WATCH, "login:logout", "End that login."),
    "whoami": Entry(_WATCH, "identity:whoami", "Show whom the vault takes you for."),
    "doctor": Entry(_WATCH, "doctor:doctor", "Check the installation and say how to mend it."),
    "gc": Entry(_WATCH, "vault:gc", "Remove what was deleted, and what dead pushes left."),
    "demo": Entry(_SELF, "demo:demo", "See the whole of it on a real model, in half a minute."),
    "completion": Entry(_SELF, "completion:completion", "Print a shell's completion script."),
}

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": WIDTH}


def _version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"modelvault {version('encrypted-model-vault')}")
        context.exit()


@click.group(cls=LazyGroup, context_settings=_SETTINGS, no_args_is_help=True)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version,
    help="Print the version.",
)  # fmt: skip
def cli() -> None:
    """An encrypted vault for AI models: weights come out only in the memory of an allowed job.

    References: [tenant/]name, name:tag, name@version or name@sha256:…, also as an address:
    modelvault://name:tag. Global options may stand before or after the subcommand.
    """


cli.entries = COMMANDS
take_globals(cli, hidden=False)


def run(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code; nothing escapes as a traceback."""
    arguments = sys.argv[1:] if argv is None else argv
    options = Globals()
    # click's own `main` would answer a broken pipe with its own exit code.
    try:
        result = _invoke(arguments, options)
        sys.stdout.flush()
    except click.exceptions.Exit as asked:
        return asked.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        return EXIT_CODES["invalid_request"]
    except click.ClickException as error:
        return _refused(_usage(error), options, arguments)
    except ModelVaultError as error:
        return _refused(error, options, arguments)
    except Declined:
        return _declined(options, arguments)
    except MemoryError:
        return _refused(_no_memory(), options, arguments)
    except (KeyboardInterrupt, EOFError, click.Abort):
        return _interrupted(options, arguments)
    except BrokenPipeError:
        return _broken_pipe()
    except Exception as error:  # noqa: BLE001  the last resort: no traceback reaches a user
        return _internal(error, options, arguments)
    return result if isinstance(result, int) else 0


def _invoke(arguments: list[str], options: Globals) -> object:
    asked = os.environ.get(COMPLETE)
    if asked is not None:
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, "modelvault", COMPLETE, asked)
    with cli.make_context("modelvault", list(arguments), obj=options) as context:
        return cli.invoke(context)


def _usage(error: click.ClickException) -> ModelVaultError:
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "modelvault"
    return InvalidRequest("usage", error.format_message(), f"see {where} --help")


def _no_memory() -> ModelVaultError:
    return Unavailable(
        "insufficient_memory",
        "the system gave this process no more memory",
        "give the machine or the container more, end other programs, or name fewer files",
    )


def _refused(error: ModelVaultError, options: Globals, arguments: list[str]) -> int:
    exit_code = EXIT_CODES.get(error.family, EXIT_INTERNAL)
    if options.passes_on:
        exit_code = EXIT_PASSING.get(error.code, EXIT_FAILED)
    _tell(error, exit_code, options, arguments)
    return exit_code


def _declined(options: Globals, arguments: list[str]) -> int:
    # Not an error, for people; a program gets a document, as for every end without a result.
    if _wants_json(options, arguments):
        told = ModelVaultError("declined", "nothing was changed", "answer yes, or add --yes")
        _tell(told, EXIT_NO, options, arguments)
    else:
        click.echo("nothing was changed", err=True)
    return EXIT_NO


def _interrupted(options: Globals, arguments: list[str]) -> int:
    error = ModelVaultError("interrupted", "interrupted", "nothing half-done is visible")
    if sys.stderr.isatty():
        click.echo(err=True)  # the terminal has just shown ^C
    _tell(error, EXIT_INTERRUPTED, options, arguments)
    return EXIT_INTERRUPTED


def _broken_pipe() -> int:
    # Whoever read our output has gone. Python would complain once more when it flushes at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_BROKEN_PIPE


def _internal(error: Exception, options: Globals, arguments: list[str]) -> int:
    # The text of a foreign exception can hold anything, also key bytes: it is never shown. A
    # traceback shows lines of source, no values.
    told = ModelVaultError(
        "internal",
        f"unexpected {type(error).__name__}",
        "this is a bug: run it again with -v and report what it prints",
    )
    exit_code = EXIT_FAILED if options.passes_on else EXIT_INTERNAL
    _tell(told, exit_code, options, arguments)
    if options.verbose:
        import traceback

        click.echo("".join(traceback.format_tb(error.__traceback__)), err=True, nl=False)
    return exit_code


def _tell(error: ModelVaultError, exit_code: int, options: Globals, arguments: list[str]) -> None:
    if _wants_json(options, arguments):
        from modelvault_cli.output import error_document

        click.echo(error_document(error, exit_code), err=options.passes_on)
        return
    from modelvault_cli.output import printable

    click.echo(f"error[{error.code}]: {printable(error.message)}", err=True)
    if error.hint:
        click.echo(f"hint: {printable(error.hint)}", err=True)


def _wants_json(options: Globals, arguments: list[str]) -> bool:
    # A line that can't be parsed leaves the options unset: then look at the words themselves.
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return options.json or "--json" in ours
