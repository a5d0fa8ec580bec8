"""`make load`: a thousand pods at once, then everything at once for LOAD_SECONDS.

Two brokers over real parts on loopback. It ends by itself, with 1 where something didn't hold.
"""

from __future__ import annotations

import secrets
import sys
import tempfile
from pathlib import Path

import click

from modelvault.client.session import Session
from support.load import Mixed, Seen, check, pods_may_load, storm
from support.servers.stack import Stack


@click.command()
@click.option("--seconds", default=60.0, show_default=True)
@click.option("--pods", default=1000, show_default=True)
def main(seconds: float, pods: int) -> None:
    """Load a served vault, and look whether everything holds afterwards."""
    stack = Stack(brokers=2, durable=True, log_level="info", say=click.echo)
    try:
        with stack.connect(stack.admin()) as admin, tempfile.TemporaryDirectory() as folder:
            model = Path(folder)
            (model / "weights.dat").write_bytes(secrets.token_bytes(2 << 20))
            first, second = (pushed(admin, model) for _ in range(2))
            with pods_may_load(admin, stack):
                stormed = storm(stack, f"{first}:prod", pods)
            wrong = told(f"{pods} pods at once", stack, first, stormed)
            if len(stormed.receipts) != pods:
                wrong.append(f"{len(stormed.receipts)} of {pods} pods were granted a lease")
            mixed = Mixed(stack, second, model, seconds).run()
            wrong += told(f"everything for {seconds:g} s", stack, second, mixed)
    finally:
        stack.close()
    for each in wrong:
        click.echo(f"doesn't hold: {each}", err=True)
    sys.exit(bool(wrong))


def pushed(admin: Session, model: Path) -> str:
    """The name of a new model with one version."""
    name = f"m-{secrets.token_hex(4)}"
    admin.create(name, classification="internal")
    admin.push(model, f"{name}:prod")
    return name


def told(title: str, stack: Stack, name: str, seen: Seen) -> list[str]:
    """Say what was seen; what doesn't hold."""
    click.echo(f"\n{title}\n{seen.told()}")
    return check(stack, name, seen)


if __name__ == "__main__":
    main()
