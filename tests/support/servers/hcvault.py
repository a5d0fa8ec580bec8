"""Real key services: HashiCorp Vault and OpenBao in dev mode, a fresh mount for each test."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from pathlib import Path

import hvac
import requests

from modelvault.adapters.keys_hcvault import AppRole, Connection, Server
from modelvault.adapters.keys_hcvault.setup import PURPOSES, Setup
from support.servers.process import Process, free_port, require

ROOT = "root-of-the-tests"
PROGRAMS = {
    "hcvault": ("hcvault", "hcvault-*/hcvault"),
    "openbao": ("bao", "packages/bin/bao"),
}


CONFIG = {
    "hcvault": """
disable_mlock = true
listener "tcp" {
  address                      = "127.0.0.1:PORT"
  tls_disable                  = true
  max_request_size             = 134217728
  max_json_string_value_length = 100663296
}
""",
    "openbao": """
listener "tcp" {
  address          = "127.0.0.1:PORT"
  tls_disable      = true
  max_request_size = 134217728
}
""",
}


class DevServer:
    """A dev server on loopback: unsealed, in memory, with a root token."""

    def __init__(self, kind: str) -> None:
        program = require(*PROGRAMS[kind])
        self.kind = kind
        self.folder = Path(tempfile.mkdtemp(prefix=f"mv-{kind}-"))
        port, listener = free_port(), free_port()
        self.address = f"http://127.0.0.1:{listener}"
        # As docs/operations.md says: a manifest is signed whole, and may be long.
        config = self.folder / "config.hcl"
        config.write_text(CONFIG[kind].replace("PORT", str(listener)))
        self.process = Process(
            [
                program, "server", "-dev", f"-dev-root-token-id={ROOT}",
                f"-dev-listen-address=127.0.0.1:{port}", "-dev-no-store-token",
                f"-config={config}",
            ],
            log=self.folder / "log",
            ready=lambda: healthy(self.address),
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
        )  # fmt: skip

    def root(self) -> hvac.Client:
        return hvac.Client(url=self.address, token=ROOT)

    def mounted(self, *more: str) -> Mounted:
        """A fresh mount, set up as `init` does; `more` are further signing purposes."""
        return Mounted(self, (*PURPOSES, *more))

    def stop(self) -> None:
        self.process.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class Mounted:
    """One vault's mount, with a login for each role."""

    def __init__(self, dev: DevServer, purposes: tuple) -> None:
        self.dev = dev
        self.folder = Path(tempfile.mkdtemp(prefix="mv-mount-"))
        self.server = Server(address=dev.address, mount=f"mv{secrets.token_hex(6)}")
        self._open: list[Connection] = []
        setup = Setup(self.server, ROOT)
        setup.mount(purposes)
        setup.policies()
        self._setup = setup

    def login(self, role: str) -> AppRole:
        """A login of the role, with its secret id in a file."""
        credential = self._setup.approle(role)
        path = self.folder / f"{role}-{secrets.token_hex(4)}"
        path.write_text(credential.secret_id)
        return AppRole(role_id=credential.role_id, secret_id_file=path)

    def connection(self, role: str) -> Connection:
        made = Connection(self.server, self.login(role))
        self._open.append(made)
        return made

    def token(self, *policies: str) -> str:
        """A token with just these policies' names."""
        answer = self.dev.root().auth.token.create(
            policies=list(policies), no_default_policy=True, ttl="10m"
        )
        return str(answer["auth"]["client_token"])

    def close(self) -> None:
        for connection in self._open:
            connection.close()
        self._setup.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def healthy(address: str) -> bool:
    try:
        return requests.get(f"{address}/v1/sys/health", timeout=2).status_code == 200
    except requests.RequestException:
        return False
