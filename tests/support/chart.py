"""examples/deploy/chart: what Helm makes of it, and its pods as containers of this machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from support.container import ROOT, Container, Mount, give
from support.opa import opa
from support.servers.process import require

CHART = ROOT / "examples" / "deploy" / "chart"
PUBLIC_KEY = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"
VALUES: dict[str, Any] = {
    "vault": {"id": "0123456789abcdef0123456789abcdef"},
    "hcvault": {"address": "https://hcvault.example:8200"},
    "ledger": {"url": "postgresql+psycopg://modelvault@db.example/modelvault?sslmode=verify-full"},
    "objects": {"bucket": "models"},
    "opa": {"key": PUBLIC_KEY},
}

Documents = list[dict[str, Any]]


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The real one; it speaks to no cluster."""
    program = require("helm", "helm-*/helm")
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
    )  # fmt: skip


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values with others over them, as Helm lays files over one another."""
    found = dict(values)
    for name, value in changes.items():
        here = found.get(name)
        both = isinstance(here, dict) and isinstance(value, dict)
        found[name] = merged(here, value) if both else value
    return found


def render(folder: Path, **changes: Any) -> subprocess.CompletedProcess[str]:
    """`helm template`, in the namespace `models` and by the name `mv`."""
    file = folder / "values-test.yaml"
    file.write_text(yaml.safe_dump(merged(VALUES, changes)))
    return helm("template", "mv", CHART, "--namespace", "models", "--values", file)


def documents(folder: Path, **changes: Any) -> Documents:
    """What Helm would send to a cluster."""
    done = render(folder, **changes)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def only(found: Documents, kind: str, name: str) -> dict[str, Any]:
    (one,) = (each for each in found if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return one


def pods(found: Documents) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each workload's name and its pod's specification."""
    for one in found:
        if one["kind"] in {"Deployment", "Job"}:
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*(pod.get("initContainers") or ()), *pod["containers"]]


@dataclass
class Kubelet:
    """Makes of a pod what a kubelet makes of it: its volumes as files, its containers beside them.

    `maps` and `secrets` are the cluster's, by name; `token` makes a service account's for an
    audience and a number of seconds; `hosts` is what its names lead to.
    """

    folder: Path
    maps: dict[str, dict[str, str]]
    secrets: dict[str, dict[str, str]]
    token: Callable[[str, str | None, int], str]
    hosts: dict[str, list[str]] = field(default_factory=dict)
    _pods: int = 0

    def pod(self, spec: dict[str, Any], address: str) -> dict[str, Container]:
        """Its containers by name."""
        assert spec["automountServiceAccountToken"] is False
        self._pods += 1
        place = self.folder / f"pod-{self._pods}"
        group = spec["securityContext"]["fsGroup"]
        volumes = {
            volume["name"]: self._volume(place / volume["name"], volume, spec, group)
            for volume in spec["volumes"]
        }
        maps = {volume["name"] for volume in spec["volumes"] if "configMap" in volume}
        return {
            told["name"]: self._container(told, spec["securityContext"], volumes, maps, address)
            for told in containers(spec)
        }

    def _container(
        self,
        told: dict[str, Any],
        security: dict[str, Any],
        volumes: dict[str, Path],
        maps: set[str],
        address: str,
    ) -> Container:
        env = {"HOME": "/"}
        for one in told.get("env") or ():
            source = (one.get("valueFrom") or {}).get("secretKeyRef")
            env[one["name"]] = (
                one["value"] if source is None else self.secrets[source["name"]][source["key"]]
            )
        mounts = [
            Mount(
                volumes[one["name"]],
                one["mountPath"],
                not one.get("readOnly"),
                settings=one["name"] in maps,
            )
            for one in told["volumeMounts"]
        ]
        image = [Mount(opa(), "/opa")] if told["command"] == ["/opa"] else []
        return Container(
            command=[*told["command"], *told["args"]],
            uid=security["runAsUser"],
            gid=security["runAsGroup"],
            groups=[security["fsGroup"]],
            env=env,
            mounts=[*image, *mounts],
            address=address,
            hosts=self.hosts,
        )

    def _volume(
        self, place: Path, volume: dict[str, Any], spec: dict[str, Any], group: int
    ) -> Path:
        files: dict[str, str] = {}
        mode = 0o644
        if "configMap" in volume:
            files = dict(self.maps[volume["configMap"]["name"]])
        elif "secret" in volume:
            mode = volume["secret"].get("defaultMode", mode)
            files = items(self.secrets[volume["secret"]["secretName"]], volume["secret"])
        else:
            mode = volume["projected"].get("defaultMode", mode)
            for source in volume["projected"]["sources"]:
                files |= self._projected(source, spec["serviceAccountName"])
        place.mkdir(parents=True)
        for name, text in files.items():
            path = place / name
            path.write_text(text)
            path.chmod(mode)
            give(path, 0, group)
        return place

    def _projected(self, source: dict[str, Any], account: str) -> dict[str, str]:
        if "secret" in source:
            return items(self.secrets[source["secret"]["name"]], source["secret"])
        if "configMap" in source:
            return items(self.maps[source["configMap"]["name"]], source["configMap"])
        told = source["serviceAccountToken"]
        made = self.token(account, told.get("audience"), told.get("expirationSeconds", 3600))
        return {told["path"]: made}


def items(content: dict[str, str], told: dict[str, Any]) -> dict[str, str]:
    """The parts that are asked for, by the names that they are to have."""
    return {one["path"]: content[one["key"]] for one in told["items"]}
