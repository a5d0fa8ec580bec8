"""`login` and `logout`: people at the OpenID provider of their profile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from modelvault_cli.frame import Globals, command, pass_globals

if TYPE_CHECKING:
    from modelvault.ports.login import Prompt


@command("login", "modelvault login --profile work", "modelvault login --device")
@click.option("--device", is_flag=True, help="Log in on another device: type a code there.")
@pass_globals
def login(options: Globals, device: bool) -> None:
    """Log in at the profile's OpenID provider.

    Without --device in a browser on this machine. Tokens are kept in the system's keyring, or in a
    file that only you may read.
    """
    from modelvault import wiring
    from modelvault.clock import to_text
    from modelvault_cli.documents import LoggedIn
    from modelvault_cli.output import emit, fields

    if device:
        found = wiring.login_by_device(_tell, profile=options.profile)
    else:
        found = wiring.login_by_browser(_show, profile=options.profile)
    document = LoggedIn(
        issuer=found.issuer, expires_at=to_text(found.expires_at), renewable=found.renewable
    )
    lines = fields(
        {
            "logged in at": document.issuer,
            "until": "you log out" if document.renewable else document.expires_at,
        }
    )
    emit(options, document, lines)


@command("logout", "modelvault logout --profile work")
@pass_globals
def logout(options: Globals) -> None:
    """End the login: at the provider, and what is kept here."""
    from modelvault import wiring
    from modelvault_cli.documents import LoggedOut
    from modelvault_cli.output import emit

    revoked = wiring.logout(profile=options.profile)
    told = {
        None: "nobody was logged in",
        True: "logged out",
        False: "logged out here; the provider wasn't told, so its last token is good until it ends",
    }
    document = LoggedOut(was_logged_in=revoked is not None, revoked=bool(revoked))
    emit(options, document, [told[revoked]])


def _show(url: str) -> None:
    import webbrowser

    click.echo("Log in with a browser on this machine:", err=True)
    click.echo(f"  {url}", err=True)
    try:
        webbrowser.open(url)
    except webbrowser.Error:
        click.echo("No browser was found: open the address yourself.", err=True)


def _tell(prompt: Prompt) -> None:
    from modelvault_cli.output import printable

    click.echo(f"Open {printable(prompt.whole_url or prompt.url)} on any device,", err=True)
    click.echo(f"check or type the code {printable(prompt.code)}, and log in.", err=True)
