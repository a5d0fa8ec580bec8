"""A release of the chart on this machine, and around it what a cluster and a company have: API
server, key service, store and database, with TLS in front."""

from __future__ import annotations

import hashlib
import secrets
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hvac
import trustme

from modelvault import deployment
from modelvault.wiring import founding
from support import chart
from support.container import Container
from support.servers import kubernetes, postgresql
from support.servers.hcvault import ROOT, DevServer
from support.servers.process import Process
from support.servers.s3 import S3Server
from support.servers.tls import TlsFront

NAMESPACE = "models"
ADMINS = f"cluster:serviceaccount:{NAMESPACE}:admin"


class Installed:
    """The release `mv`, and around it what a cluster and a company have."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._closing = ExitStack()
        self._count = 0
        self._net = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}"
        self.processes: dict[str, Process] = {}
        try:
            self._around()
            self._found()
            self._pods()
        except BaseException:
            self.close()
            raise

    def place(self) -> Path:
        """A folder for one more container."""
        self._count += 1
        made = self.folder / f"container-{self._count}"
        made.mkdir()
        return made

    def close(self) -> None:
        self._closing.close()

    def client(self, account: str, *command: str, **changes: Any) -> str:
        """The job's container with another command, and maybe as another account: what it says."""
        spec = dict(self.job, serviceAccountName=account)
        (made,) = self.kubelet.pod(spec, f"{self._net}.9").values()
        done = made.run(self.place(), command=["modelvault", *command], **changes)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _around(self) -> None:
        """Key service, store and database, with TLS in front; the cluster's API server."""
        authority = trustme.CA()
        self.ca = authority.cert_pem.bytes().decode()
        self.cluster = kubernetes.Cluster(authority)
        self._closing.callback(self.cluster.close)
        self.openbao = DevServer("openbao")
        self._closing.callback(self.openbao.stop)
        self.s3 = S3Server("versitygw")
        self._closing.callback(self.s3.stop)
        self.postgresql = postgresql.Cluster(*postgresql.FAST)
        self._closing.callback(self.postgresql.stop)
        fronts = {}
        for name, port in (
            ("hcvault.example", int(self.openbao.address.rpartition(":")[2])),
            ("s3.example", self.s3.port),
        ):
            front = TlsFront(port, authority.issue_cert(name))
            self._closing.callback(front.close)
            fronts[name] = f"https://{name}:{front.port}"
        self.values: dict[str, Any] = {
            "noticeSeconds": 1,
            "hcvault": {"address": fronts["hcvault.example"], "caConfigMap": "company-ca"},
            "ledger": {
                "url": f"postgresql+psycopg://modelvault@db.example:{self.postgresql.port}"
                f"/{self.postgresql.fresh()}"
            },
            "objects": {
                "bucket": self.s3.bucket().name,
                "prefix": f"{secrets.token_hex(4)}/",
                "endpoint": fronts["s3.example"],
                "pathStyle": True,
                "caConfigMap": "company-ca",
                "credentialsSecret": "modelvault-s3",
            },
            "kubernetesIssuer": {"jwks": self.cluster.jwks},
            "service": {"port": 8443},
            "job": {"enabled": True, "storeCaConfigMap": "company-ca"},
        }
        token = secrets.token_urlsafe(24)
        leaf = authority.issue_cert("mv.models.svc", "localhost")
        self.secrets = {
            "modelvault-tls": {
                "tls.crt": "".join(each.bytes().decode() for each in leaf.cert_chain_pems),
                "tls.key": leaf.private_key_pem.bytes().decode(),
            },
            "modelvault-ledger": {"password": "not-asked-for"},
            "modelvault-s3": {"credentials": self.s3.credentials.read_text()},
            "modelvault-opa": {
                "token": token,
                "token-sha256": hashlib.sha256(token.encode()).hexdigest(),
                "bundle-token": secrets.token_urlsafe(24),
            },
        }

    def _found(self) -> None:
        """What an operator does once, from outside: docs/operations.md."""
        rendered = chart.documents(self.folder, **self.values)
        config = chart.only(rendered, "ConfigMap", "mv-config")["data"]["broker.toml"]
        file = self.folder / "found.toml"
        trust = self.folder / "trust.json"
        for inside, outside in (
            ("/etc/modelvault/trust/trust.json", str(trust)),
            (self.values["hcvault"]["address"], self.openbao.address),
            (self.values["objects"]["endpoint"], self.s3.endpoint),
            ("db.example", "127.0.0.1"),
            ("/var/run/secrets/modelvault/objects", str(self.s3.credentials)),
            ("/var/run/secrets/modelvault/ledger", str(self._file("ledger", "x"))),
            ('ca = "/etc/modelvault/hcvault-ca/ca.crt"', ""),
            ('ca = "/etc/modelvault/objects-ca/ca.crt"', ""),
        ):
            assert inside in config
            config = config.replace(inside, outside)
        file.write_text(config)
        made = founding.found(deployment.read(file), ROOT, [ADMINS])
        self.values["vault"] = {"id": made.vault}
        self.values["opa"] = {"key": made.opa_key}
        self.maps = {
            "modelvault-trust": {"trust.json": trust.read_text()},
            "modelvault-ca": {"ca.crt": self.ca},
            "company-ca": {"ca.crt": self.ca},
            "kube-root-ca.crt": {"ca.crt": self.ca},
        }
        self._logins()

    def _logins(self) -> None:
        """Kubernetes auth: the brokers' account, and no other, gets the two policies."""
        root = hvac.Client(url=self.openbao.address, token=ROOT)
        root.sys.enable_auth_method("kubernetes")
        root.auth.kubernetes.configure(
            kubernetes_host=f"https://127.0.0.1:{self.cluster.port}",
            kubernetes_ca_cert=self.ca,
            token_reviewer_jwt=self.cluster.token("keys", "hcvault", None),
        )
        for role in ("broker", "steward"):
            root.write_data(
                f"auth/kubernetes/role/modelvault-{role}",
                data={
                    "bound_service_account_names": "mv",
                    "bound_service_account_namespaces": NAMESPACE,
                    "audience": "hcvault",
                    "token_policies": [f"modelvault-{role}"],
                    "token_no_default_policy": True,
                    "token_ttl": "20m",
                },
            )

    def _pods(self) -> None:
        rendered = chart.documents(self.folder, **self.values)
        self.maps |= {
            one["metadata"]["name"]: one["data"] for one in rendered if one["kind"] == "ConfigMap"
        }
        addresses = [f"{self._net}.1", f"{self._net}.2"]
        self.kubelet = chart.Kubelet(
            self.folder,
            self.maps,
            self.secrets,
            lambda account, audience, seconds: self.cluster.token(
                NAMESPACE, account, audience, seconds
            ),
            hosts={
                "mv.models.svc": addresses,
                kubernetes.NAME: ["127.0.0.1"],
                **{f"{part}.example": ["127.0.0.1"] for part in ("hcvault", "s3", "db")},
            },
        )
        specs = dict(chart.pods(rendered))
        self.job, self.migrate = specs["mv-job"], specs["mv-migrate"]
        self.brokers: list[dict[str, Container]] = []
        for number, address in enumerate(addresses):
            made = self.kubelet.pod(specs["mv"], address)
            self.brokers.append(made)
            for name, port in (("opa", 8282), ("broker", 8443)):
                self._start(f"{name}-{number}", made[name], address, port)

    def _start(self, name: str, container: Container, address: str, port: int) -> None:
        process = container.start(self.place(), lambda: answers(address, port))
        self.processes[name] = process
        self._closing.callback(process.stop)
        assert process.running(), process.log.read_text()

    def _file(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path


def answers(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, port)) == 0
