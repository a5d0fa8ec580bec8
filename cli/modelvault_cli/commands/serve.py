"""`serve`: a broker for many."""

from __future__ import annotations

from pathlib import Path

import click

from modelvault_cli.frame import NAMED_PATH, Globals, command, pass_globals


@command("serve", "modelvault serve /etc/modelvault/broker.toml")
@click.argument("deployment", type=NAMED_PATH)
@pass_globals
def serve(_options: Globals, deployment: Path) -> None:
    """Serve a vault to many, by the settings in the file DEPLOYMENT, until SIGTERM.

    The file names the key service, the policy server, the object store, the ledger's database and
    the issuers of tokens; docs/operations.md explains each setting. The log is on stderr, a JSON
    object for each line. SIGTERM ends it once what has begun has ended.
    """
    from modelvault.wiring import serving

    serving.serve(deployment)
