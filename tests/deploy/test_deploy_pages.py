"""What docs/operations.md and examples/deploy/README.md say of the chart and the Compose file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from modelvault import deployment
from modelvault.identity import presets
from support.chart import CHART, Documents, containers, helm, only, pods
from support.compose import Project

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")
SECTION = PAGE[PAGE.index("## In Kubernetes") : PAGE.index("## Policies")]
README = (ROOT / "examples" / "deploy" / "README.md").read_text("utf-8")


def block(kind: str) -> str:
    (found,) = re.findall(rf"```{kind}\n(.*?)```", SECTION, re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Documents:
    """The page's values, and the job of its step 8."""
    file = tmp_path_factory.mktemp("values") / "values.yaml"
    file.write_text(block("yaml"))
    done = helm(
        "template", "modelvault", CHART, "--namespace", "models", "--values", file,
        "--set", "job.enabled=true",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def test_kubernetes_takes_what_the_values_make(rendered: Documents) -> None:
    for one in rendered:
        kubernetes_validate.validate(one, "1.37", strict=True)


def test_every_secret_and_map_that_pods_need_is_made_before(rendered: Documents) -> None:
    made = set(re.findall(r"create (secret|configmap) (?:generic |tls )?([a-z0-9-]+)", SECTION))
    ours = {
        ("configmap", one["metadata"]["name"]) for one in rendered if one["kind"] == "ConfigMap"
    }
    needed = {name for _, pod in pods(rendered) for name in named(pod)}
    assert needed - ours - {("configmap", "kube-root-ca.crt")} == made


def named(pod: dict) -> Iterator[tuple[str, str]]:
    """The Secrets and ConfigMaps that a pod can't start without."""
    for volume in pod["volumes"]:
        for source in (volume, *volume.get("projected", {}).get("sources", ())):
            if "configMap" in source:
                yield "configmap", source["configMap"]["name"]
            if "secret" in source:
                yield "secret", source["secret"].get("secretName") or source["secret"]["name"]
    for told in containers(pod):
        for one in told.get("env") or ():
            if "valueFrom" in one:
                yield "secret", one["valueFrom"]["secretKeyRef"]["name"]


def test_the_roles_at_the_key_service_are_those_that_brokers_ask_for(
    rendered: Documents, tmp_path: Path
) -> None:
    told = read(only(rendered, "ConfigMap", "modelvault-config")["data"]["broker.toml"], tmp_path)
    roles = {
        re.sub(r"\$role", role, path)
        for path in re.findall(r"auth/kubernetes/role/(\S+)", SECTION)
        for role in ("broker", "steward")
    }
    assert {told.keys.broker.kubernetes.role, told.keys.steward.kubernetes.role} == roles
    deployed = only(rendered, "Deployment", "modelvault")["spec"]["template"]["spec"]
    assert f"bound_service_account_names={deployed['serviceAccountName']} " in SECTION
    (audience,) = (
        source["serviceAccountToken"]["audience"]
        for volume in deployed["volumes"]
        if volume["name"] == "hcvault-token"
        for source in volume["projected"]["sources"]
    )
    assert f"audience={audience} " in SECTION


def test_the_vault_is_founded_where_the_values_say(rendered: Documents, tmp_path: Path) -> None:
    founded = read(block("toml"), tmp_path)
    served = read(only(rendered, "ConfigMap", "modelvault-config")["data"]["broker.toml"], tmp_path)
    assert founded.keys.address == served.keys.address
    assert founded.keys.mount == served.keys.mount
    assert founded.ledger.url.partition("?")[0] == served.ledger.url.partition("?")[0]
    assert founded.policy.opa is not None
    for name in ("bucket", "prefix", "endpoint", "region"):
        assert getattr(founded.objects, name) == getattr(served.objects, name)
    (issuer,) = (one.issuer for one in presets.read(founded.issuers))
    assert issuer.name in {one.issuer.name for one in presets.read(served.issuers)}
    (admins,) = re.findall(r"--admins (\S+)", SECTION)
    assert admins.startswith(f"{issuer.name}:serviceaccount:models:")


def test_the_grant_is_the_jobs(rendered: Documents) -> None:
    account = only(rendered, "Job", "modelvault-job")["spec"]["template"]["spec"]
    assert f'"cluster:serviceaccount:models:{account["serviceAccountName"]}"' in SECTION


def test_the_readme_names_the_services_that_there_are(tmp_path: Path) -> None:
    services = Project(tmp_path).read()["services"]
    told = set(re.findall(r"docker compose (?:run --rm|build|exec) ([a-z0-9-]+)", README))
    for line in re.findall(r"docker compose up -d ((?:[a-z0-9-]+ ?)+)", README):
        told |= set(line.split())
    assert told <= services.keys()
    asked_for = {name for name, one in services.items() if one.get("profiles")}
    assert asked_for <= told


def read(text: str, folder: Path) -> deployment.Deployment:
    path = folder / "broker.toml"
    path.write_text(text)
    return deployment.read(path)
