"""examples/deploy/compose from nothing to a job with its model: each service's own command, as the
user and with the files, names and rights that the file gives it."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from support import dockerfile
from support.compose import UID, Project, postgresql
from support.container import Container, give
from support.homes import safetensors_bytes
from support.servers.process import Process

pytestmark = pytest.mark.slow

WEIGHTS = {"embed.weight": np.arange(200_000, dtype=np.float32), "steps": np.array([1, 2, 3])}


class Running:
    """The project and its processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = Project(folder)
        self.processes: dict[str, Process] = {}
        self._closing = ExitStack()
        self._count = 0

    def place(self) -> Path:
        """A folder for one more container."""
        self._count += 1
        made = self.folder / f"container-{self._count}"
        made.mkdir()
        return made

    def run(self, name: str, *more: str, replacing: bool = False) -> str:
        """`docker compose run --rm NAME …`: what it printed."""
        done = self.project.container(name, *more, replacing=replacing).run(self.place())
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def healthy(self, name: str) -> bool:
        """What the service's own health check says."""
        told = self.project.read()["services"][name].get("healthcheck")
        test = told["test"][1:] if told else dockerfile.healthcheck()
        container = self.project.container(name)
        if name == "postgresql":
            container = postgresql(self.project)[1]
        return container.run(self.place(), command=test).returncode == 0

    def up(self, name: str, port: int, container: Container | None = None) -> None:
        """`docker compose up -d NAME`, until its port is open."""
        address = self.project.addresses[name]
        made = container or self.project.container(name)
        process = made.start(self.place(), lambda: answers(address, port))
        assert process.running(), process.log.read_text()
        self.processes[name] = process
        # SeaweedFS takes no notice of a polite word for long.
        self._closing.callback(process.kill if name == "s3" else process.stop)

    def close(self) -> None:
        self._closing.close()


def answers(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, port)) == 0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """All of it, as README.md brings it up."""
    made = Running(tmp_path_factory.mktemp("compose"))
    try:
        bring_up(made)
        yield made
    finally:
        made.close()


def bring_up(made: Running) -> None:
    made.run("prepare")
    made.up("hcvault", 8200)
    initdb, server = postgresql(made.project)
    done = initdb.run(made.place())
    assert done.returncode == 0, done.stderr
    made.up("postgresql", 5432, server)
    made.up("s3", 8333)
    assert not made.healthy("hcvault"), "sealed is not healthy"
    told = made.run(
        "hcvault", "operator", "init", "-key-shares=1", "-key-threshold=1", "-format=json",
        replacing=True,
    )  # fmt: skip
    keys = json.loads(told)
    made.run("hcvault", "operator", "unseal", keys["unseal_keys_b64"][0], replacing=True)
    root = made.project.state / "root-token"
    root.write_text(keys["root_token"])
    root.chmod(0o600)
    give(root, UID, UID)
    made.processes["hcvault"].until(lambda: made.healthy("hcvault"))
    assert made.healthy("postgresql")
    made.run("found")
    root.unlink()
    made.up("opa", 8181)
    for broker in ("broker-1", "broker-2"):
        made.up(broker, 8443)
    for name, groups in (("admin", ["olga", "vault-admins"]), ("job", ["job", "inference"])):
        token = made.project.state / "tokens" / name
        token.write_text(made.run("token", *groups, replacing=True))


@pytest.mark.parametrize("broker", ["broker-1", "broker-2"])
def test_brokers_get_ready(running: Running, broker: str) -> None:
    container = running.project.container(broker)
    ready = [*dockerfile.healthcheck()[:-1], "/readyz"]
    running.processes[broker].until(
        lambda: container.run(running.place(), command=ready).returncode == 0
    )
    assert running.healthy(broker)


def test_a_job_loads_what_an_admin_pushed(running: Running) -> None:
    model = running.project.folder / "models" / "minilm"
    model.mkdir()
    (model / "model.safetensors").write_bytes(safetensors_bytes(WEIGHTS))
    running.run("admin", "create", "minilm", "--classification", "internal", replacing=True)
    running.run("admin", "push", "/models/minilm", "minilm:prod", replacing=True)
    loaded = json.loads(running.run("job"))
    assert {one["name"] for one in loaded["tensors"]} == WEIGHTS.keys()
    assert loaded["purpose"] == "inference"


def test_the_ledger_is_up_to_date(running: Running) -> None:
    assert "up to date" in running.run("migrate")


def test_a_stop_is_in_order(running: Running) -> None:
    broker = running.processes["broker-2"]
    broker.signal(signal.SIGTERM)
    assert broker.wait() == 0, broker.log.read_text()[-1500:]
