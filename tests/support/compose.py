"""The services of examples/deploy/compose as containers of this machine."""

from __future__ import annotations

import dataclasses
import json
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

from support import dockerfile
from support.container import ROOT, Container, Mount, give
from support.opa import opa
from support.servers.postgresql import programs
from support.servers.process import require

EXAMPLE = ROOT / "examples" / "deploy"
UID = 54321
# What images do by themselves: ours, and PostgreSQL's script, for which see `postgresql`.
ENTRYPOINTS = {"modelvault": dockerfile.entrypoint, "postgres": list}
PROGRAMS = {
    "vault": ("hcvault", "hcvault-*/hcvault"),
    "weed": ("weed", "packages/bin/weed"),
}


class Project:
    """A copy of the example in `folder`, read as Docker Compose reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "examples" / "deploy" / "compose"
        shutil.copytree(EXAMPLE / "compose", self.folder)
        (folder / "policies").symlink_to(ROOT / "policies")
        for name in ("state", "models"):
            (self.folder / name).mkdir()
            give(self.folder / name, UID, UID)
        (self.folder / ".env").write_text(f"MODELVAULT_UID={UID}\nMODELVAULT_GID={UID}\n")
        first, second = secrets.randbelow(200) + 20, secrets.randbelow(250)
        names = list(self.read()["services"])
        self.addresses = {
            name: f"127.{first}.{second}.{number + 1}" for number, name in enumerate(names)
        }

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def read(self) -> dict[str, Any]:
        """The whole project: checked against Compose's schema, and with all that it fills in."""
        compose = require("modelvault-compose", "compose-*/compose")
        done = subprocess.run(
            [compose, "compose.yaml"], cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def container(self, name: str, *more: str, replacing: bool = False) -> Container:
        """A service, with `more` behind its command, or in place of what it says."""
        project = self.read()
        service = project["services"][name]
        entrypoint = service.get("entrypoint") or ENTRYPOINTS[service["image"].partition(":")[0]]()
        command = more if replacing else [*(service.get("command") or []), *more]
        command = [*entrypoint, *command]
        uid, gid = service["user"].split(":")
        return Container(
            command=command,
            uid=int(uid),
            gid=int(gid),
            env={"HOME": "/", **(service.get("environment") or {})},
            mounts=[*_programs(command[0]), *self._mounts(project, service)],
            tmpfs=service.get("tmpfs") or (),
            address=self.addresses[name],
            hosts=self._hosts(project, service),
        )

    def _mounts(self, project: dict[str, Any], service: dict[str, Any]) -> list[Mount]:
        found = [
            Mount(Path(each["source"]), each["target"], not each.get("read_only"))
            for each in service.get("volumes") or ()
        ]
        for kind, folder in (("configs", "/"), ("secrets", "/run/secrets/")):
            for each in service.get(kind) or ():
                target = each.get("target") or each["source"]
                file = Path(project[kind][each["source"]]["file"])
                target = target if target[0] == "/" else folder + target
                found.append(Mount(file, target, settings=kind == "configs"))
        return found

    def _hosts(self, project: dict[str, Any], service: dict[str, Any]) -> dict[str, list[str]]:
        """Who can be found from there: what is on one of its networks, by its names in it."""
        found: dict[str, list[str]] = {}
        for network in service.get("networks") or ():
            for name, other in project["services"].items():
                at = (other.get("networks") or {}).get(network, False)
                if at is False:
                    continue
                for each in {name, *((at or {}).get("aliases") or ())}:
                    listed = found.setdefault(each, [])
                    if self.addresses[name] not in listed:
                        listed.append(self.addresses[name])
        return found


def _programs(entrypoint: str) -> list[Mount]:
    """What the image has beside Python."""
    if entrypoint == "/opa":
        return [Mount(opa(), "/opa")]
    if entrypoint in PROGRAMS:
        return [Mount(require(*PROGRAMS[entrypoint]), f"/image/{entrypoint}")]
    return []


def postgresql(project: Project) -> tuple[Container, Container]:
    """(what the image's entrypoint does in an empty folder, the server)."""
    served = project.container("postgresql")
    told = served.env
    server = dataclasses.replace(
        served,
        env={**told, "PATH": f"{programs()}:/usr/bin:/bin"},
        named="postgres",  # the image has a library that says so
    )
    user, database = told["POSTGRES_USER"], told["POSTGRES_DB"]
    script = f"""
        initdb --no-sync --username={user} --pwfile={told["POSTGRES_PASSWORD_FILE"]} \\
            {told["POSTGRES_INITDB_ARGS"]}
        echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
        echo 'create database {database}' | postgres --single postgres
    """
    return dataclasses.replace(server, command=["sh", "-euc", script]), server
