"""`make stack` and `make demo-stack`: a whole served vault on loopback, to try things on.

Everything is real and a process of its own: HashiCorp Vault (dev mode), OPA, PostgreSQL, versitygw
as S3, an issuer of tokens, and two brokers with TLS. All of it ends with this program, and nothing
stays.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import click
import pytest

from modelvault.client.session import Session
from modelvault.errors import ModelVaultError
from modelvault_cli.demo.walk import similarity
from modelvault_cli.demo.world import model_folder
from support.servers.stack import Stack

HOURS = 8


class Stopped(Exception):
    """Somebody asked for the end while something began."""


class Asked:
    """Whether SIGINT, SIGTERM or SIGHUP has come.

    They are only noted, and looked at between two steps: an exception in the middle of one could
    leave a server behind that nobody knows yet. SIGINT counts also where a shell without job
    control started this with `&` and made it ignored; an ignored SIGHUP is nohup's wish.
    """

    def __init__(self) -> None:
        self.came = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)

    def check(self) -> None:
        """Raises Stopped."""
        if self.came:
            raise Stopped

    def wait(self) -> None:
        """Until one comes."""
        while not self.came:
            time.sleep(0.2)

    def _note(self, *_: object) -> None:
        self.came = True


@click.command()
@click.option("--demo", is_flag=True, help="Run the demo through it, and end.")
def main(demo: bool) -> None:
    """Bring a served vault up on loopback; Ctrl-C ends it."""
    asked, begun = Asked(), time.monotonic()

    def say(line: str) -> None:
        asked.check()
        click.echo(f"{time.monotonic() - begun:5.1f} s  {line}")

    try:
        with closing(Stack(brokers=2, say=say)) as stack:
            if demo:
                run_demo(stack)
                return
            tell(stack)
            asked.wait()
            click.echo("\nstopping")
    except Stopped:
        click.echo("\nstopped")
    except (pytest.skip.Exception, pytest.fail.Exception) as missing:
        click.echo(f"\nno stack: {missing}", err=True)
        sys.exit(1)
    finally:
        click.echo("everything is stopped, and nothing is left")


def tell(stack: Stack) -> None:
    """The addresses, and the first commands to try."""
    until = int(time.time()) + HOURS * 3600
    people = {
        "admin": stack.token("olga", "vault-admins", exp=until),
        "job": stack.token("job", "inference", exp=until),
    }
    files = {name: stack.folder / f"{name}.token" for name in people}
    for name, token in people.items():
        files[name].write_text(token)
    told = {
        "broker 1": stack.urls[0],
        "broker 2": stack.urls[1],
        "HashiCorp Vault": stack.hcvault.address,
        "OPA": f"http://127.0.0.1:{stack.opa_port}",
        "PostgreSQL": stack.postgresql.url(stack.database),
        "S3": stack.s3.endpoint,
        "issuer": stack.issuer.iss,
        "files and logs": stack.folder,
    }
    click.echo("")
    for name, text in told.items():
        click.echo(f"{name:16} {text}")
    click.echo(f"\nIn another terminal (tokens are good for {HOURS} hours):\n")
    for line in (
        f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH",
        f"export MODELVAULT_BROKER={stack.urls[0]} MODELVAULT_CA={shlex.quote(str(stack.ca))}",
        f"export MODELVAULT_TRUST={shlex.quote(str(stack.trust))}",
        f"export MODELVAULT_TOKEN_FILE={shlex.quote(str(files['admin']))}",
        "modelvault create minilm --classification internal",
        f"modelvault push {shlex.quote(str(model_folder()))} minilm:prod",
        f"MODELVAULT_TOKEN_FILE={shlex.quote(str(files['job']))} "
        "modelvault load minilm:prod --purpose inference",
        "modelvault policy revisions && modelvault audit",
    ):
        click.echo(f"  {line}")
    click.echo(f"\nCtrl-C, or `kill {os.getpid()}`, ends everything.")


def run_demo(stack: Stack) -> None:
    """The demo's steps through real parts: at broker 1 what admins do, at broker 2 the job."""
    admin = stack.connect(stack.admin())
    job = stack.connect(stack.token("job", "inference"), 1)
    with admin, job:
        admin.create("minilm", classification="internal")
        step("push MiniLM at broker 1", lambda: admin.push(model_folder(), "minilm:prod").version)
        step("load it at broker 2, and embed two sentences", lambda: cosine(job))
        step("rotate its key", lambda: f"KEK version {admin.rotate('minilm').kek_version}")
        step("load it again", lambda: cosine(job))
        refuse("the wrong purpose", lambda: job.load("minilm:prod", purpose="export"))
        stranger = stack.connect(stack.token("eve"))
        refuse("a stranger", lambda: stranger.load("minilm:prod", purpose="inference"))
        late = stack.connect(stack.token("job", "inference", iat=1_700_000_000, exp=1_700_000_900))
        refuse("an expired token", lambda: late.load("minilm:prod", purpose="inference"))
        admin.revoke("principal", "idp:job", reason="demo")
        refuse("who was revoked", lambda: job.load("minilm:prod", purpose="inference"))
        for entry in admin.entries(reference="minilm").entries:
            click.echo(f"      {entry.seq:3} {entry.actor:10} {entry.action:8} {entry.outcome}")


def cosine(job: Session) -> str:
    """How alike two sentences are, by the decrypted weights."""
    with job.load("minilm:prod", purpose="inference") as model:
        alike = similarity(model)
    return f"cosine {alike:.4f}"


def step(title: str, do: Callable[[], object]) -> None:
    begun = time.monotonic()
    seen = do()
    click.echo(f"✓ {title}: {seen} ({(time.monotonic() - begun) * 1000:.0f} ms)")


def refuse(title: str, do: Callable[[], object]) -> None:
    try:
        do()
    except ModelVaultError as error:
        click.echo(f"✓ refused: {title}: [{error.code}] {error.message}")
        return
    click.echo(f"✗ NOT refused: {title}")
    sys.exit(1)


if __name__ == "__main__":
    main()
