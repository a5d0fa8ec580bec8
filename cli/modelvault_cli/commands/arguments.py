"""Arguments and options that several commands take."""

from __future__ import annotations

import re
from collections.abc import Callable

import click

from modelvault.errors import InvalidRequest, ModelVaultError
from modelvault_cli.frame import NAMED_PATH, Globals

_DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd]?)")
_SCHEME = "modelvault://"
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(text: str) -> int:
    """Seconds of a time span: `90`, `90s`, `15m`, `2h` or `7d`."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no time span: write 90s, 15m, 2h or 7d")
    return int(match[1]) * _SECONDS[match[2]]


def pair(text: str) -> tuple[str, str]:
    """(name, value) of `name=value`."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{text!r} is not name=value")
    return name, value


def reference_of(text: str) -> str:
    """A reference, also of an address as frameworks write it: `modelvault://name:tag`.

    Raises InvalidRequest (`bad_reference`) for an address of a file in a model."""
    if not text.startswith(_SCHEME):
        return text
    from modelvault.integrations.addresses import Address

    address = Address.parse(text)
    if address.path:
        raise InvalidRequest(
            "bad_reference",
            f"{text[:200]!r} names a file of the model {address.reference}; here a whole model is "
            "meant",
            f"write {address.reference} (load, run, hold and export take files by --file); a "
            "tenant's model needs a tag or a version: modelvault://tenant/name:tag",
        )
    return address.reference


def complete_reference(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Names and tags of the models that the caller may list, for the shell."""
    if incomplete.startswith(_SCHEME):
        rest = complete_reference(context, _parameter, incomplete.removeprefix(_SCHEME))
        return [_SCHEME + each for each in rest]
    tenant, slash, start = incomplete.rpartition("/")
    try:
        with context.ensure_object(Globals).session() as session:
            found = session.list(tenant=tenant or "default", limit=1000)
    except ModelVaultError:  # there is nothing to offer; the command itself will say why
        return []
    names = [
        name
        for model in found
        for name in (model.model, *(f"{model.model}:{tag.tag}" for tag in model.tags))
    ]
    return [tenant + slash + name for name in names if name.startswith(start)]


reference = click.argument(
    "reference", type=reference_of, metavar="REFERENCE", shell_complete=complete_reference
)
target = click.argument("target", type=reference_of, metavar="TARGET")
model = click.option(
    "--model", type=reference_of, metavar="REFERENCE", shell_complete=complete_reference,
    help="Of this model only.",
)  # fmt: skip
dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
yes = click.option("--yes", is_flag=True, help="Don't ask; needed where there is no terminal.")
_to_home = click.option(
    "--to-home", type=NAMED_PATH, metavar="DIR", help="The other vault: a home's."
)
_to_broker = click.option(
    "--to-broker", metavar="URL", help="The other vault: a broker's. [env: MODELVAULT_TO_BROKER]"
)
_to_profile = click.option(
    "--to-profile", metavar="NAME", help="The other vault: as a profile names it."
)


def other_vault(function: Callable[..., object]) -> Callable[..., object]:
    """`to_home`, `to_broker`, `to_profile`: the other vault of a copy."""
    return _to_home(_to_broker(_to_profile(function)))


purpose = click.option(
    "--purpose", "-p", required=True, metavar="NAME", help="What for: inference, evaluation, …"
)
files = click.option(
    "--file", "files", multiple=True, metavar="PATH", help="Only this file; may be repeated."
)
ticket = click.option("--ticket", metavar="TEXT", help="A ticket that the policy may ask for.")
