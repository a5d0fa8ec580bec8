"""examples/deploy/chart: what Helm makes of it, checked against Kubernetes' schemas and against
what the library reads and says."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import msgspec
import pytest
import yaml

from modelvault import deployment
from modelvault.identity import presets
from modelvault.policy import opa_server
from support.chart import CHART, PUBLIC_KEY, VALUES, containers, documents, helm, only, pods, render
from support.dockerfile import entrypoint

VERSIONS = ("1.30", "1.37")
ALL: dict[str, Any] = {
    "role": "both",
    "hcvault": {"namespace": "team", "caConfigMap": "keys-ca"},
    "ledger": {"caConfigMap": "db-ca"},
    "objects": {
        "prefix": "prod/", "endpoint": "https://s3.example", "publicEndpoint": "https://s3.example",
        "pathStyle": True, "encryption": "aws:kms", "kmsKey": "key-1", "lockMode": "GOVERNANCE",
        "lockDays": 30, "caConfigMap": "store-ca", "credentialsSecret": "store",
    },
    "proxies": ["10.0.0.0/8"],
    "kubernetesIssuer": {"namespaces": ["serving", "batch"]},
    "issuers": [
        {
            "kind": "oidc", "name": "idp", "iss": "https://idp.example",
            "jwks": "https://idp.example/jwks", "max_lifetime_s": 1800, "leeway_s": 5,
            "require": {"email_verified": ["true"]},
        },
        {"kind": "github", "name": "gh", "owners": ["9919"]},
    ],
    "copies": {"trustedConfigMap": "other-vaults", "files": ["eu.json", "us.json"]},
    "imagePullSecrets": [{"name": "pull"}],
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "ml"},
    "nodeSelector": {"pool": "vault"},
    "tolerations": [{"key": "vault", "operator": "Exists"}],
    "service": {"type": "LoadBalancer", "port": 8443, "annotations": {"c": "d"}},
    "serviceAccount": {"annotations": {"role": "arn:aws:iam::1:role/models"}},
    "job": {"enabled": True, "storeCaConfigMap": "store-ca"},
}  # fmt: skip
CASES = {"least": {"job": {"enabled": True}}, "all": ALL}


@pytest.fixture(params=CASES, scope="module")
def rendered(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict]:
    return documents(tmp_path_factory.mktemp("values"), **CASES[request.param])


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_it(rendered: list[dict], version: str) -> None:
    kinds = {one["kind"] for one in rendered}
    assert kinds == {
        "ConfigMap", "Deployment", "Job", "NetworkPolicy", "PodDisruptionBudget", "Service",
        "ServiceAccount",
    }  # fmt: skip
    for one in rendered:
        kubernetes_validate.validate(one, version, strict=True)


def test_kubernetes_would_refuse_a_field_that_it_doesnt_know(tmp_path: Path) -> None:
    found = only(documents(tmp_path), "Deployment", "mv")
    found["spec"]["template"]["spec"]["automountServiceAccountTokn"] = False
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(found, VERSIONS[-1], strict=True)


def test_helm_has_nothing_to_say(tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(VALUES))
    done = helm("lint", "--strict", CHART, "--values", file)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"replica": 3}, "additional properties 'replica' not allowed"),
        ({"replicas": 0}, "/replicas"),
        ({"securityContext": {"runAsUser": 0}}, "/securityContext/runAsUser"),
        ({"ledger": {"url": "postgresql+psycopg://u:secret@db/mv"}}, "/ledger/url"),
        ({"hcvault": {"address": "http://hcvault:8200"}}, "/hcvault/address"),
        ({"hcvault": {"address": ""}}, "hcvault.address: where is the key service?"),
        ({"objects": {"bucket": ""}}, "objects.bucket"),
        ({"objects": {"lockMode": "GOVERNANCE"}}, "/objects/lockDays"),
        ({"opa": {"key": ""}}, "opa.key"),
        ({"vault": {"id": ""}, "job": {"enabled": True}}, "vault.id"),
        ({"vault": {"id": "prod"}}, "/vault/id"),
        ({"job": {"tokenSeconds": 30}}, "/job/tokenSeconds"),
    ],
)
def test_values_that_cant_be_meant_are_refused(tmp_path: Path, changes: dict, why: str) -> None:
    done = render(tmp_path, **changes)
    assert done.returncode != 0
    assert why in done.stderr


def test_brokers_read_their_settings(rendered: list[dict], tmp_path: Path) -> None:
    told = read(rendered, tmp_path)
    (pod,) = (pod for name, pod in pods(rendered) if name == "mv")
    broker = pod["containers"][0]
    mounted = {one["mountPath"] for one in broker["volumeMounts"]}
    assert {str(path.parent) for path in paths(told)} <= mounted
    ports = {one["name"]: one["containerPort"] for one in broker["ports"]}
    assert ports == {"https": told.serve.port, "metrics": told.serve.metrics_port}
    assert pod["terminationGracePeriodSeconds"] > told.serve.notice_s + told.serve.drain_s
    assert told.keys.broker.kubernetes.role == "modelvault-broker"
    assert told.keys.steward.kubernetes.role == "modelvault-steward"


def test_every_value_gets_to_the_settings(tmp_path: Path) -> None:
    told = read(documents(tmp_path, **ALL), tmp_path)
    assert told.keys.namespace == "team"
    assert told.serve.proxies == ("10.0.0.0/8",)
    assert told.objects.prefix == "prod/"
    assert told.objects.endpoint == told.objects.public_endpoint == "https://s3.example"
    assert told.objects.path_style
    assert (told.objects.encryption, told.objects.kms_key) == ("aws:kms", "key-1")
    assert (told.objects.lock_mode, told.objects.lock_days) == ("GOVERNANCE", 30)
    assert told.copies.trusted == tuple(
        Path("/etc/modelvault/copies") / name for name in ("eu.json", "us.json")
    )
    found = {one.issuer.name: one for one in presets.read(told.issuers)}
    assert found.keys() == {"cluster", "idp", "gh"}
    assert found["idp"].issuer.max_lifetime_s == 1800
    assert told.issuers[0]["namespaces"] == ["serving", "batch"]


def test_every_section_of_a_deployment_can_be_set(tmp_path: Path) -> None:
    config = only(documents(tmp_path, **ALL), "ConfigMap", "mv-config")["data"]["broker.toml"]
    fields = {field.name for field in msgspec.structs.fields(deployment.Deployment)}
    assert set(tomllib.loads(config)) == fields


@pytest.mark.parametrize("role", ["broker", "steward"])
def test_a_role_has_no_login_of_the_other(tmp_path: Path, role: str) -> None:
    told = read(documents(tmp_path, role=role), tmp_path)
    logins = {"broker": told.keys.broker, "steward": told.keys.steward}
    assert told.serve.role == role
    assert [name for name, login in logins.items() if login is not None] == [role]


def test_opa_runs_as_the_library_says(rendered: list[dict]) -> None:
    (pod,) = (pod for name, pod in pods(rendered) if name == "mv")
    told = containers(pod)[0]
    assert told["restartPolicy"] == "Always", "a sidecar: it outlives the broker's last requests"
    config = Path("/etc/opa/config.yaml")
    wanted = list(opa_server.command(Path("/opa"), "localhost:8181", config))
    policies = [f"/etc/opa/{path.name}" for path in opa_server.system_policies()]
    wanted = [*wanted[: -len(policies)], *policies]
    given = [*told["command"], *told["args"]]
    at = given.index("--diagnostic-addr")
    assert given[:at] + given[at + 2 :] == wanted
    data = only(rendered, "ConfigMap", "mv-opa")["data"]
    assert yaml.safe_load(data["config.yaml"]) == opa_server.config(
        "https://localhost:8443",
        PUBLIC_KEY,
        token_file=Path("/var/run/secrets/modelvault/bundle-token"),
        ca=Path("/etc/modelvault/ca/ca.crt"),
    )
    for path in opa_server.system_policies():
        assert data[path.name].strip() == path.read_text("utf-8").strip()


def test_every_container_is_closed(rendered: list[dict]) -> None:
    for name, pod in pods(rendered):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] > 0, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        assert not pod.get("hostNetwork"), name
        for told in containers(pod):
            assert told["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in told["resources"]["limits"], name
            assert all(one["readOnly"] for one in told["volumeMounts"]), name
            if told["name"] != "opa":
                assert told["command"] == entrypoint()


def test_no_volume_lies_in_another(rendered: list[dict]) -> None:
    """A runtime can't make the inner one's folder in an outer one that is read-only."""
    for _, pod in pods(rendered):
        for told in containers(pod):
            places = [Path(one["mountPath"]) for one in told["volumeMounts"]]
            assert not [(a, b) for a in places for b in places if a in b.parents]


def test_probes_ask_what_the_server_answers_where_it_listens(rendered: list[dict]) -> None:
    (pod,) = (pod for name, pod in pods(rendered) if name == "mv")
    asked = {
        (told["name"], probe): told[probe]["httpGet"]
        for told in containers(pod)
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
        if probe in told
    }
    https = {"port": "https", "scheme": "HTTPS"}
    assert asked == {
        ("broker", "startupProbe"): {"path": "/healthz", **https},
        ("broker", "livenessProbe"): {"path": "/healthz", **https},
        ("broker", "readinessProbe"): {"path": "/readyz", **https},
        ("opa", "livenessProbe"): {"path": "/health", "port": "opa-health"},
        ("opa", "readinessProbe"): {"path": "/health?bundles", "port": "opa-health"},
    }
    for told in containers(pod):
        ports = {one["name"] for one in told["ports"]}
        assert all(
            told[probe]["httpGet"]["port"] in ports for probe in ("livenessProbe", "readinessProbe")
        )


def test_services_lead_to_ports_that_are_open(rendered: list[dict]) -> None:
    (pod,) = (pod for name, pod in pods(rendered) if name == "mv")
    labels = only(rendered, "Deployment", "mv")["spec"]["template"]["metadata"]["labels"]
    ports = {one["name"] for told in containers(pod) for one in told["ports"]}
    for name, port in (("mv", "https"), ("mv-metrics", "metrics")):
        service = only(rendered, "Service", name)["spec"]
        assert service["selector"].items() <= labels.items()
        assert [one["targetPort"] for one in service["ports"]] == [port]
        assert port in ports


def test_the_network_lets_clients_in_and_metrics_apart(rendered: list[dict]) -> None:
    policy = only(rendered, "NetworkPolicy", "mv")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    ports = [[port["port"] for port in rule["ports"]] for rule in policy["ingress"]]
    assert ports == [[8443], [9464]]
    job = only(rendered, "Job", "mv-job")["spec"]["template"]["metadata"]["labels"]
    (client,) = policy["ingress"][0]["from"]
    assert client["podSelector"]["matchLabels"].items() <= job.items()


def test_a_disruption_takes_one_broker_at_a_time(rendered: list[dict]) -> None:
    budget = only(rendered, "PodDisruptionBudget", "mv")["spec"]
    assert budget["maxUnavailable"] == 1
    deployed = only(rendered, "Deployment", "mv")["spec"]
    assert budget["selector"] == deployed["selector"]
    assert deployed["replicas"] == 2


def test_a_jobs_only_token_is_made_for_this_vault(rendered: list[dict]) -> None:
    pod = only(rendered, "Job", "mv-job")["spec"]["template"]["spec"]
    sources = [
        one for volume in pod["volumes"] for one in volume.get("projected", {}).get("sources", ())
    ]
    (token,) = (one["serviceAccountToken"] for one in sources)
    assert token["audience"] == f"modelvault:{VALUES['vault']['id']}"
    assert token["expirationSeconds"] == 600
    (told,) = pod["containers"]
    env = {one["name"]: one["value"] for one in told["env"]}
    mounted = {one["mountPath"] for one in told["volumeMounts"]}
    files = {Path(text) for name, text in env.items() if name != "MODELVAULT_BROKER"}
    assert {str(path.parent) for path in files} == mounted
    assert pod["serviceAccountName"] == "mv-job"


def test_the_schema_tells_of_every_value() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    assert schema["properties"].keys() - {"global"} == values.keys()


def read(rendered: list[dict], folder: Path) -> deployment.Deployment:
    path = folder / "broker.toml"
    path.write_text(only(rendered, "ConfigMap", "mv-config")["data"]["broker.toml"])
    return deployment.read(path)


def paths(told: deployment.Deployment) -> list[Path]:
    """All files that settings name."""
    assert told.serve.tls is not None
    assert told.policy.opa is not None
    some = [
        told.vault.trust, told.serve.tls.certificate, told.serve.tls.key, told.keys.ca,
        told.ledger.password_file, told.objects.ca, told.objects.credentials_file,
        told.policy.bundle_token_file, told.policy.opa.token_file,
        told.keys.broker.kubernetes.token_file, told.keys.steward.kubernetes.token_file,
        *(Path(told.issuers[0][name]) for name in ("ca", "token_file")),
    ]  # fmt: skip
    return [path for path in some if path is not None]
