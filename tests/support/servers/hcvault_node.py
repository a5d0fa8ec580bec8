"""A key service as operators run it: raft storage, TLS with client certificates, sealed first."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import requests
import trustme

from modelvault.adapters.keys_hcvault import Server
from support.servers.hcvault import PROGRAMS
from support.servers.process import Process, free_port, listening, require

CONFIG = """
disable_mlock = true
storage "raft" {
  path                   = "FOLDER/data"
  node_id                = "NAME"
  performance_multiplier = 1
}
listener "tcp" {
  address                            = "127.0.0.1:API"
  cluster_address                    = "127.0.0.1:CLUSTER"
  tls_cert_file                      = "TLS/server.pem"
  tls_key_file                       = "TLS/server.key"
  tls_client_ca_file                 = "TLS/ca.pem"
  tls_require_and_verify_client_cert = true
}
api_addr     = "https://127.0.0.1:API"
cluster_addr = "https://127.0.0.1:CLUSTER"
"""


class Certificates:
    """A CA of our own, the servers' certificate and a client's."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.ca = folder / "ca.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca))
        for name in ("server", "client"):
            leaf = authority.issue_cert("127.0.0.1", common_name=name)
            leaf.private_key_pem.write_to_path(str(folder / f"{name}.key"))
            leaf.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))

    @property
    def client(self) -> tuple[Path, Path]:
        return self.folder / "client.pem", self.folder / "client.key"


class Node:
    """One server of a cluster. It starts sealed, as after each restart."""

    def __init__(self, kind: str, folder: Path, tls: Certificates) -> None:
        self.folder, self.tls = folder, tls
        (folder / "data").mkdir(parents=True)
        self._program = require(*PROGRAMS[kind])
        self.port, cluster = free_port(), free_port()
        text = CONFIG.replace("FOLDER", str(folder)).replace("NAME", folder.name)
        text = text.replace("API", str(self.port)).replace("CLUSTER", str(cluster))
        self._config = folder / "config.hcl"
        self._config.write_text(text.replace("TLS/", f"{tls.folder}/"))
        self.start()

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def server(self, **changes: Any) -> Server:
        """As a deployment names it."""
        certificate, key = self.tls.client
        told = {
            "address": self.address, "mount": "mv", "ca": self.tls.ca,
            "certificate": certificate, "key": key, "timeout_s": 10.0,
        }  # fmt: skip
        return Server(**(told | changes))

    def start(self) -> None:
        self.process = Process(
            [self._program, "server", f"-config={self._config}"],
            log=self.folder / "log",
            ready=lambda: listening(self.port),
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
        )

    def ask(self, method: str, path: str, body: Any = None, token: str = "") -> requests.Response:
        return requests.request(
            method,
            f"{self.address}/v1/{path}",
            json=body,
            headers={"X-Vault-Token": token} if token else {},
            verify=str(self.tls.ca),
            cert=tuple(map(str, self.tls.client)),
            timeout=30,
        )

    def init(self) -> tuple[str, str]:
        """(unseal key, root token) of a new cluster."""
        made = self.ask("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1}).json()
        return made["keys"][0], made["root_token"]

    def unseal(self, key: str, *, until: int = 200) -> None:
        """And wait for what its health then is: 200 active, 429 standby."""
        self.ask("PUT", "sys/unseal", {"key": key})
        self.process.until(lambda: self.health() == until)

    def seal(self, root: str) -> None:
        self.ask("PUT", "sys/seal", token=root)
        self.process.until(lambda: self.health() == 503)

    def join(self, leader: Node) -> None:
        """Become a part of another node's cluster."""
        certificate, key = self.tls.client
        body = {
            "leader_api_addr": leader.address,
            "leader_ca_cert": self.tls.ca.read_text(),
            "leader_client_cert": certificate.read_text(),
            "leader_client_key": key.read_text(),
        }
        answer = self.ask("PUT", "sys/storage/raft/join", body)
        assert answer.json().get("joined") is True, answer.text

    def health(self) -> int:
        try:
            return self.ask("GET", "sys/health").status_code
        except requests.RequestException:
            return 0
