"""`serve` and `found`: a vault for many, from empty servers on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from modelvault.errors import InvalidRequest
from modelvault_cli.commands import arguments
from modelvault_cli.frame import NAMED_PATH, Globals, command, pass_globals

_deployment = click.argument("deployment", type=NAMED_PATH)


@contextmanager
def server_parts() -> Iterator[None]:
    """What only servers need is installed on demand: without it, say how."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "modelvault":
            raise  # not a package that somebody could install
        raise InvalidRequest(
            "missing_extra",
            f"serving needs packages that aren't installed here: {error.name}, and maybe more",
            'in a clone: pip install ".[server]"; elsewhere: '
            'pip install "encrypted-model-vault[server]"',
        ) from None


@command("serve", "modelvault serve /etc/modelvault/broker.toml")
@_deployment
@pass_globals
def serve(_options: Globals, deployment: Path) -> None:
    """Serve a vault to many, by the settings in the file DEPLOYMENT, until SIGTERM.

    The file names the key service, the policy server, the object store, the ledger's database and
    the issuers of tokens; docs/operations.md explains each setting. The log is on stderr, a JSON
    object for each line. SIGTERM ends it once what has begun has ended.
    """
    from modelvault.wiring import serving

    with server_parts():
        serving.serve(deployment)


@command(
    "found",
    "modelvault found broker.toml --hcvault-token-file root-token --admins idp:vault-admins",
)
@_deployment
@click.option(
    "--hcvault-token-file", "token_file", type=NAMED_PATH, required=True, metavar="FILE",
    help="Holds an administrator's token at HashiCorp Vault or OpenBao; used once, for this.",
)  # fmt: skip
@click.option(
    "--admins", multiple=True, required=True, metavar="ISSUER:GROUP",
    help="Who may do everything at first; may be repeated.",
)  # fmt: skip
@arguments.dry_run
@pass_globals
def found(
    options: Globals, deployment: Path, token_file: Path, admins: tuple[str, ...], dry_run: bool
) -> None:
    """Make a vault that can be served: key service, ledger, policies and trust file.

    Sets HashiCorp Vault up (mount, signing keys, policies, AppRoles where DEPLOYMENT names them),
    makes the ledger in its empty database, puts the shipped policies into force, and writes the
    trust file that DEPLOYMENT names. Run again after a failure: it goes on where it stopped.
    A dry run asks the ledger, and neither HashiCorp Vault nor the bucket.
    """
    from modelvault import deployment as deployments
    from modelvault.wiring import founding
    from modelvault_cli.commands.plan import tell
    from modelvault_cli.documents import Founded
    from modelvault_cli.output import emit, fields

    told = deployments.read(deployment)
    token = deployments.secret_text(token_file)
    if dry_run:
        with server_parts():
            founding.check(told, admins)
        effect = f"set up {told.keys.address}, make a ledger, write {told.vault.trust}"
        tell(options, "found", str(deployment), effect)
        return
    with server_parts():
        made = founding.found(told, token, admins)
    document = Founded(
        vault=made.vault,
        trust=str(made.trust),
        policy_revision=made.policy_revision,
        admins=made.admins,
        opa_key=made.opa_key,
    )
    lines = fields(
        {
            "vault": made.vault,
            "trust file": str(made.trust),
            "policies": made.policy_revision,
            "admins": ", ".join(made.admins),
        }
    )
    if made.opa_key is not None:
        lines += ["OPA's key, for its configuration (keep it):", *made.opa_key.splitlines()]
    emit(options, document, [*lines, f"next: modelvault serve {deployment}"])
