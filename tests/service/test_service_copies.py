"""Copies through real parts: from a home into a served vault and back, and between two served
vaults that share nothing but a network."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelvault import deployment, wiring
from modelvault.client.session import Session
from modelvault.errors import AccessDenied, Unavailable
from modelvault.identity.binding import plain_audience
from modelvault.wiring import founding
from support.command import spawn
from support.servers.hcvault import ROOT
from support.servers.process import Process, free_port
from support.servers.stack import ADMINS, Stack, coverage_environment

PROGRAM = Path(sys.executable).with_name("modelvault")


@dataclass
class Served:
    """A vault with a broker that trusts others: at the stack's servers, and by its own settings."""

    stack: Stack
    url: str
    trust: Path
    vault: str
    broker: Process

    def environment(self, folder: Path) -> dict[str, str]:
        token = self.stack.issuer.token(plain_audience(self.vault), "olga", ["vault-admins"])
        return {
            "MODELVAULT_BROKER": self.url,
            "MODELVAULT_CA": str(self.stack.ca),
            "MODELVAULT_TRUST": str(self.trust),
            "MODELVAULT_TOKEN": token,
            "HOME": str(folder),
        }

    def connect(self, folder: Path) -> Session:
        return wiring.connect_with(self.environment(folder))


def _serve(stack: Stack, config: Path, port: int) -> Process:
    started = Process(
        [PROGRAM, "serve", config],
        log=stack.folder / f"{config.stem}.log",
        ready=lambda: stack._answers(f"https://127.0.0.1:{port}/healthz"),
        env={"PATH": os.environ["PATH"], "HOME": str(stack.folder), **coverage_environment()},
    )
    stack._closing.callback(started.stop)
    return started


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """An embedded vault."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        wiring.init(folder / "vault", user="me")
        with wiring.connect(home=folder / "vault") as made:
            yield made


@pytest.fixture(scope="module")
def vaults(stack: Stack, home: Session) -> tuple[Served, Served]:
    """The stack's vault and another one, each with a broker that trusts the other and the home."""
    ports = free_port(), free_port()
    folder = stack.folder / "copies"
    folder.mkdir()
    text = stack.configs[0].read_text()
    (folder / "home.json").write_bytes(home.trust.to_bytes())
    mount, twin_trust = f"tw{secrets.token_hex(4)}", stack.folder / "twin.json"

    def config(name: str, port: int, other: str, changes: dict[str, str]) -> Path:
        changed = text.replace(f"port = {stack.ports[0]}", f"port = {port}")
        for old, new in changes.items():
            assert old in changed
            changed = changed.replace(old, new)
        path = stack.folder / f"{name}.toml"
        path.write_text(f'{changed}\n[copies]\ntrusted = ["copies/home.json", "{other}"]\n')
        return path

    twin = {
        'trust = "trust.json"': 'trust = "twin.json"',
        f'mount = "{stack.mount}"': f'mount = "{mount}"',
        f"{stack.mount}-broker": f"{mount}-broker",
        f"{stack.mount}-steward": f"{mount}-steward",
        "secrets/broker": "secrets/twin-broker",
        "secrets/steward": "secrets/twin-steward",
        f'prefix = "{stack.prefix}"': 'prefix = "twin/"',
        f"/{stack.database}": f"/{stack.postgresql.fresh()}",
    }
    there = config("twin", ports[1], "trust.json", twin)
    lines = [line for line in there.read_text().splitlines() if not line.startswith("opa = ")]
    there.write_text("\n".join(lines))
    founded = founding.found(deployment.read(there), ROOT, [ADMINS])
    here = config("friendly", ports[0], "twin.json", {})
    brokers = [_serve(stack, path, port) for path, port in ((here, ports[0]), (there, ports[1]))]
    made = (
        Served(
            stack, f"https://127.0.0.1:{ports[0]}", stack.trust, stack.founded.vault, brokers[0]
        ),
        Served(stack, f"https://127.0.0.1:{ports[1]}", twin_trust, founded.vault, brokers[1]),
    )
    for each in made:
        home.pin_trust(each.connect(folder).trust)
    return made


def test_from_a_home_into_a_served_vault_and_back(
    home: Session, vaults: tuple[Served, Served], name: str, model: Path, check, tmp_path: Path
) -> None:
    home.create(name, classification="restricted")
    home.push(model, name)
    with vaults[0].connect(tmp_path) as served:
        served.create(name, classification="internal")
        done: list[tuple[int, int]] = []
        made = home.copy(name, served, f"{name}:prod", progress=lambda *told: done.append(told))
        assert (made.version, made.new, made.tag) == (1, True, "prod")
        assert done[-1][0] == done[-1][1] == made.size
        with served.load(f"{name}:prod", purpose="inference") as loaded:
            check(loaded.tensors())
        again = home.copy(name, served, f"{name}:prod")
        assert (again.version, again.new) == (1, False)
        served.push(model, name)
        home.create(f"{name}-back")
        back = served.copy(f"{name}@2", home, f"{name}-back")
        assert back.source.vault == vaults[0].vault
        with home.load(f"{name}-back", purpose="inference") as loaded:
            check(loaded.tensors())


def test_between_served_vaults(
    vaults: tuple[Served, Served], stack: Stack, name: str, model: Path, check, tmp_path: Path
) -> None:
    one, other = (each.connect(tmp_path / each.vault) for each in vaults)
    with one, other:
        one.create(name)
        one.push(model, name, labels={"team": "search"})
        other.create(name)
        one.copy(name, other, name)
        other.rotate(name)
        with other.load(name, purpose="inference") as loaded:
            check(loaded.tensors())
        gave = [e for e in one.entries(reference=name).entries if e.action == "export"]
        assert [e.details["destination"] for e in gave] == [vaults[1].vault]
        took = other.entries(reference=name).entries
        assert {e.details.get("from_vault") for e in took} >= {vaults[0].vault}
    with stack.connect(stack.admin()) as plain:  # a broker that trusts nobody
        with vaults[1].connect(tmp_path / "third") as receiver:
            receiver.create(f"{name}-b")
            plain.push(model, name)
            with pytest.raises(AccessDenied) as caught:
                plain.copy(f"{name}@2", receiver, f"{name}-b")
        assert caught.value.code == "untrusted_vault"


def test_a_revoked_version_is_told_as_one(
    vaults: tuple[Served, Served], name: str, model: Path, tmp_path: Path
) -> None:
    """What a migration goes on after: whose revocation it is comes through both brokers."""
    one, other = (each.connect(tmp_path / each.vault) for each in vaults)
    with one, other:
        one.create(name)
        one.push(model, name)
        other.create(name)
        one.revoke("version", f"{name}@1", reason="leaked")
        with pytest.raises(AccessDenied) as caught:
            one.copy(name, other, name)
        details = caught.value.details
        assert caught.value.code == "revoked"
        assert (details["kind"], details["target"]) == ("version", f"default/{name}@1")
        assert other.show(name).versions == ()


def test_a_copy_that_was_cut_off_goes_on(
    home: Session, vaults: tuple[Served, Served], name: str, tmp_path: Path
) -> None:
    """What is at the store already isn't sent again."""
    big = tmp_path / "big.txt"
    big.write_bytes(b"".join(b"%019d\n" % line for line in range(2 << 20)))
    home.create(name)
    home.push(big, name)
    with vaults[1].connect(tmp_path) as served:
        served.create(name)
        seen: list[int] = []

        def stop(done: int, total: int) -> None:
            seen.append(done)
            if done > total * 8 // 10:
                raise Unavailable("cut_off", "as if the network went")

        with pytest.raises(Unavailable):
            home.copy(name, served, name, progress=stop)
        sent: list[int] = []
        made = home.copy(name, served, name, progress=lambda done, _total: sent.append(done))
        assert made.version == 1
        assert sent[0] >= 30 << 20  # counted at once: it was there
        uploads = [e for e in served.entries(reference=name).entries if e.outcome == "allowed"]
        assert len([e for e in uploads if e.details.get("step") == "import"]) == 1
        with served.load(name, purpose="inference") as loaded:
            assert bytes(loaded.read_bytes("big.txt")) == big.read_bytes()


def test_the_command(vaults: tuple[Served, Served], name: str, model: Path, tmp_path: Path) -> None:
    """`modelvault copy` from one broker to another, the second named by MODELVAULT_TO_*."""
    one, other = (each.connect(tmp_path / each.vault) for each in vaults)
    with one, other:
        one.create(name)
        one.push(model, f"{name}:prod")
        other.create(name)
    second = {
        name.replace("MODELVAULT_", "MODELVAULT_TO_"): text
        for name, text in vaults[1].environment(tmp_path).items()
        if name.startswith("MODELVAULT_")
    }
    env = vaults[0].environment(tmp_path) | second
    planned = spawn("--json", "copy", f"{name}:prod", f"{name}:prod", "--dry-run", env=env)
    assert planned.code == 0, planned.out
    plan = json.loads(planned.out)
    assert plan["reasons"]
    vault, receiver = vaults[0].vault, vaults[1].vault
    assert plan["unchecked"][:2] == [  # brokers don't tell whom they trust
        f"whether vault {giver} trusts vault {taker}: its admin knows"
        for giver, taker in ((vault, receiver), (receiver, vault))
    ]
    told = spawn("--json", "copy", f"{name}:prod", f"{name}:prod", env=env)
    assert told.code == 0, told.out
    document = told.document("copy")
    assert (document.version, document.new, document.source.vault) == (1, True, vaults[0].vault)
    revoked = spawn("revoke", "version", f"{name}@1", "--reason", "leaked", "--yes", env=env)
    assert revoked.code == 0, revoked.err
    line = ("--json", "copy", f"{name}@1", f"{name}-gone")
    assert spawn(*line, "--dry-run", env=env).error.code == "revoked"
    nowhere = {key: text for key, text in env.items() if "_TO_" not in key}
    assert spawn("copy", name, name, "--json", env=nowhere).error.code == "no_other_vault"


def test_signing_keys_are_exchanged(
    vaults: tuple[Served, Served], stack: Stack, name: str, model: Path, tmp_path: Path
) -> None:
    """The broker is stopped, the key exchanged, clients get the successor; then all goes on. The
    last test here: the other vault's pins of this one are old afterwards."""
    twin, config = vaults[1], stack.folder / "twin.toml"
    pinned = tmp_path / "pinned.json"
    pinned.write_bytes(twin.trust.read_bytes())
    with twin.connect(tmp_path) as session:
        session.create(name)
        session.push(model, name)
    twin.broker.stop()
    token = tmp_path / "root-token"
    token.write_text(ROOT)
    successor = tmp_path / "successor.json"
    told = spawn(
        "--json", "trust", "rotate", "manifest", successor, "--yes", "--deployment", config,
        "--hcvault-token-file", token,
    )  # fmt: skip
    assert told.code == 0, told.out
    assert told.document("trust rotate").serial == 2
    _serve(stack, config, int(twin.url.rpartition(":")[2]))
    env = twin.environment(tmp_path / "later") | {"MODELVAULT_TRUST": str(pinned)}
    told = spawn("--json", "push", model, name, env=env)
    assert (told.error.code, told.code) == ("unknown_key", 5)
    assert spawn("trust", "update", successor, env=env).code == 0
    assert pinned.read_bytes() == twin.trust.read_bytes()
    told = spawn("--json", "push", model, name, env=env)
    assert told.code == 0, told.out
    for version in ("@1", "@3"):
        assert spawn("load", name + version, "-p", "inference", env=env).code == 0
