"""The whole of a served vault on loopback: key service, policy server, store, database, issuer,
and brokers with TLS, each a real process of its own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import requests
import trustme

from modelvault import deployment, wiring
from modelvault.adapters.keys_hcvault import Server
from modelvault.client.session import Session
from modelvault.identity.binding import plain_audience
from modelvault.policy import opa_server
from modelvault.wiring import founding
from support.opa import opa
from support.servers.hcvault import ROOT, DevServer
from support.servers.issuer import LocalIssuer
from support.servers.postgresql import FAST, Cluster
from support.servers.process import Process, free_port
from support.servers.s3 import S3Server
from support.servers.toxiproxy import Toxiproxy

ADMINS = "idp:vault-admins"
TEMPLATE = """
[vault]
trust = "trust.json"
segment_length = {segment}

[serve]
port = {port}
threads = 16
log_level = "{log_level}"
tls = {{certificate = "tls/server.pem", key = "tls/server.key"}}

[keys]
address = "{hcvault}"
mount = "{mount}"
timeout_s = {patience}
broker = {{approle = {{role_id = "{mount}-broker", secret_id_file = "secrets/broker"}}}}
steward = {{approle = {{role_id = "{mount}-steward", secret_id_file = "secrets/steward"}}}}

[ledger]
url = "{ledger}"
deadline_s = {patience}

[objects]
bucket = "{bucket}"
prefix = "{prefix}"
endpoint = "{s3}"
path_style = true
timeout_s = {patience}
credentials_file = "{credentials}"

[policy]
bundle_token_file = "secrets/opa-bundle"
opa = {{address = "{opa}", token_file = "secrets/opa", deadline_s = {patience}}}

[[issuers]]
name = "idp"
iss = "{iss}"
jwks = "{jwks}"
algorithms = ["ES256"]
max_lifetime_s = 86400

[[issuers]]
kind = "kubernetes"
name = "pods"
iss = "{pods}"
jwks = "{pods}/jwks"
algorithms = ["ES256"]
"""


class Stack:
    """One served vault. Everything lies in `folder`; `close` ends every process by its own pid."""

    def __init__(
        self,
        *,
        brokers: int = 1,
        segment: int = 1 << 20,
        patience: float = 5.0,
        proxied: bool = False,
        durable: bool = False,
        log_level: str = "debug",
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._closing = ExitStack()
        self._log_level = log_level
        self.folder = Path(tempfile.mkdtemp(prefix="modelvault-stack-"))
        try:
            self._start(brokers, segment, say, patience, proxied, durable)
        except BaseException:
            self.close()
            raise

    def _start(
        self,
        brokers: int,
        segment: int,
        say: Callable[[str], None],
        patience: float,
        proxied: bool,
        durable: bool,
    ) -> None:
        self._patience = patience
        say("certificates")
        self._certificates()
        say("issuer")
        self.issuer = LocalIssuer()
        self._closing.callback(self.issuer.close)
        self.cluster = LocalIssuer("pods")
        self._closing.callback(self.cluster.close)
        say("HashiCorp Vault")
        self.hcvault = DevServer("hcvault")
        self._closing.callback(self.hcvault.stop)
        say("PostgreSQL")
        self.postgresql = Cluster(*(() if durable else FAST))
        self._closing.callback(self.postgresql.stop)
        say("versitygw (S3)")
        self.s3 = S3Server("versitygw")
        self._closing.callback(self.s3.stop)
        self.ports = [free_port() for _ in range(brokers)]
        self.opa_port = free_port()
        for name in ("opa", "opa-bundle"):
            self._secret(name, secrets.token_urlsafe(24))
        self.database = self.postgresql.fresh()
        self.toxiproxy = Toxiproxy(self.folder) if proxied else None
        if self.toxiproxy is not None:
            self._closing.callback(self.toxiproxy.stop)
        self.mount = f"mv{secrets.token_hex(4)}"
        self.prefix = f"{secrets.token_hex(4)}/"
        self.configs = [
            self._config(number, port, segment) for number, port in enumerate(self.ports)
        ]
        say("a new vault")
        self.founded = founding.found(deployment.read(self.configs[0]), ROOT, [ADMINS])
        say("OPA")
        self.opa = self._opa()
        self._closing.callback(self.opa.stop)
        self.brokers = []
        for number in range(brokers):
            say(f"broker {number + 1}")
            self.brokers.append(self.broker(number))
        self._wait_for_policy()

    @property
    def urls(self) -> list[str]:
        return [f"https://127.0.0.1:{port}" for port in self.ports]

    @property
    def ca(self) -> Path:
        return self.folder / "tls" / "ca.pem"

    @property
    def server(self) -> Server:
        """The key service, with this vault's mount."""
        return Server(address=self.hcvault.address, mount=self.mount)

    @property
    def trust(self) -> Path:
        return self.folder / "trust.json"

    def token(self, sub: str, *groups: str, **claims: object) -> str:
        return self.issuer.token(plain_audience(self.founded.vault), sub, groups, **claims)

    def pod(self, account: str, **claims: object) -> str:
        """The token of one pod of the service account `serving/ACCOUNT`, with a uid of its own."""
        told = {
            "namespace": "serving",
            "pod": {"name": f"{account}-{secrets.token_hex(4)}", "uid": str(uuid.uuid4())},
            "serviceaccount": {"name": account, "uid": str(uuid.uuid4())},
        }
        return self.cluster.token(
            plain_audience(self.founded.vault),
            f"system:serviceaccount:serving:{account}",
            **{"kubernetes.io": told, **claims},
        )

    def admin(self) -> str:
        return self.token("olga", "vault-admins")

    def connect(
        self, token: str, broker: int = 0, *, ca: Path | None = None, **more: str
    ) -> Session:
        """A session as a job on another machine has it: address, CA, trust file, token; `more` of
        its environment."""
        client = self.folder / "clients" / secrets.token_hex(4)
        environment = {
            "MODELVAULT_CA": str(ca or self.ca),
            "MODELVAULT_TRUST": str(self.trust),
            "MODELVAULT_TOKEN": token,
            "HOME": str(client),
            **more,
        }
        return wiring.connect_with(environment, self.urls[broker])

    def broker(self, number: int, **environment: str) -> Process:
        """Start a broker; whoever does so again has stopped it before."""
        url = self.urls[number]
        process = Process(
            [Path(sys.executable).with_name("modelvault"), "serve", self.configs[number]],
            log=self.folder / f"broker-{number}.log",
            ready=lambda: self._answers(f"{url}/healthz"),
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                **coverage_environment(),
                **environment,
            },
        )
        self._closing.callback(process.stop)
        return process

    def close(self) -> None:
        self._closing.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _certificates(self) -> None:
        tls = self.folder / "tls"
        tls.mkdir()
        authority = trustme.CA()
        leaf = authority.issue_cert("127.0.0.1", "localhost")
        authority.cert_pem.write_to_path(str(tls / "ca.pem"))
        leaf.private_key_pem.write_to_path(str(tls / "server.key"))
        (tls / "server.pem").write_bytes(b"".join(each.bytes() for each in leaf.cert_chain_pems))

    def _secret(self, name: str, text: str) -> Path:
        path = self.folder / "secrets" / name
        path.parent.mkdir(exist_ok=True, mode=0o700)
        path.write_text(text)
        path.chmod(0o600)
        return path

    def _config(self, number: int, port: int, segment: int) -> Path:
        path = self.folder / f"broker-{number}.toml"
        text = TEMPLATE.format(
            segment=segment,
            log_level=self._log_level,
            port=port,
            patience=self._patience,
            hcvault=f"http://127.0.0.1:{self._way('keys', port_of(self.hcvault.address))}",
            mount=self.mount,
            ledger=self.postgresql.url(self.database).replace(
                f":{self.postgresql.port}/", f":{self._way('ledger', self.postgresql.port)}/"
            ),
            bucket=self.s3.bucket().name,
            prefix=self.prefix,
            s3=f"http://127.0.0.1:{self._way('store', self.s3.port)}",
            credentials=self.s3.credentials,
            opa=f"http://127.0.0.1:{self._way('policy', self.opa_port)}",
            iss=self.issuer.iss,
            jwks=self.issuer.url,
            pods=self.cluster.iss,
        )
        path.write_text(text)
        return path

    def _way(self, part: str, port: int) -> int:
        """The port at which brokers reach a part: its own, or a proxy's."""
        return port if self.toxiproxy is None else self.toxiproxy.proxy(part, port)

    def _opa(self) -> Process:
        config = self.folder / "opa.json"
        told = opa_server.config(
            self.urls[0],
            self.founded.opa_key or "",
            token_file=self.folder / "secrets" / "opa-bundle",
            ca=self.ca,
        )
        config.write_text(json.dumps(told))
        token = (self.folder / "secrets" / "opa").read_text()
        return Process(
            opa_server.command(opa(), f"127.0.0.1:{self.opa_port}", config),
            log=self.folder / "opa.log",
            ready=lambda: self._answers(f"http://127.0.0.1:{self.opa_port}/health"),
            env={"PATH": os.environ["PATH"], **opa_server.environment(token)},
        )

    def _wait_for_policy(self) -> None:
        """Until OPA has fetched the first bundle from a broker."""
        health = f"http://127.0.0.1:{self.opa_port}/health?bundles"
        self.opa.until(lambda: self._answers(health))

    def _answers(self, url: str) -> bool:
        try:
            return requests.get(url, timeout=2, verify=str(self.ca)).status_code == 200
        except requests.RequestException:
            return False


def port_of(address: str) -> int:
    return int(address.rsplit(":", 1)[1])


def coverage_environment() -> dict[str, str]:
    """What makes a child of ours count its lines too, where the tests do."""
    return {name: text for name, text in os.environ.items() if name.startswith(("COV", "PYTHON"))}
