"""`whoami` and `token`: who is asking, and short proofs of it."""

from __future__ import annotations

import click

from modelvault_cli.commands import arguments
from modelvault_cli.frame import Globals, command, group, pass_globals

token = group("token", "Mint short-lived tokens.")


@command("whoami", "modelvault whoami")
@pass_globals
def whoami(options: Globals) -> None:
    """Show whom the vault takes you for."""
    from modelvault.clock import to_text
    from modelvault_cli.documents import Who
    from modelvault_cli.output import emit, fields

    with options.session() as session:
        found = session.whoami()
    document = Who(
        id=found.id,
        issuer=found.issuer,
        groups=found.groups,
        bound_by=found.bound_by,
        issued_at=to_text(found.issued_at),
        expires_at=to_text(found.expires_at),
    )
    lines = fields(
        {
            "id": document.id,
            "issuer": document.issuer,
            "groups": ", ".join(document.groups),
            "bound by": document.bound_by,
            "expires": document.expires_at,
        }
    )
    emit(options, document, lines)


@command(
    "mint",
    "modelvault token mint",
    "MODELVAULT_TOKEN=$(modelvault token mint --sub ci-7 --group ml-engineers --for 5m)",
)
@click.option("--sub", metavar="NAME", help="The subject; the home's default identity without it.")
@click.option("--group", "groups", multiple=True, metavar="NAME", help="May be repeated.")
@click.option(
    "--for", "lifetime_s", type=arguments.duration, default="15m", show_default=True,
    metavar="TIME", help="How long it is good: 90s, 15m, 1h.",
)  # fmt: skip
@click.option(
    "--claim",
    "claims",
    type=arguments.pair,
    multiple=True,
    metavar="NAME=VALUE",
    help="A further claim.",
)
@pass_globals
def mint(
    options: Globals,
    sub: str | None,
    groups: tuple[str, ...],
    lifetime_s: int,
    claims: tuple[tuple[str, str], ...],
) -> None:
    """Print a token of the embedded vault's own issuer. Who has it, is who it says.

    Whoever has the home and its root key can mint for anybody: see docs/threat-model.md.
    """
    from modelvault_cli.documents import Token
    from modelvault_cli.output import emit

    with options.session() as session:
        text = session.mint_token(
            sub=sub, groups=groups or None, lifetime_s=lifetime_s, claims=dict(claims)
        )
    emit(options, Token(token=text, lifetime_s=lifetime_s), [text])


token.add_command(mint)
