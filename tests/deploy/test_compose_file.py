"""examples/deploy/compose/compose.yaml, read by Docker Compose's own library."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelvault import deployment
from modelvault.identity import presets
from modelvault.policy import opa_server
from support.compose import EXAMPLE, Project

KEPT = {"/var/lib/hcvault", "/var/lib/postgresql/data", "/var/lib/seaweedfs"}
SERVED = ("broker-1", "broker-2", "hcvault", "opa", "postgresql", "s3")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("compose"))


@pytest.fixture(scope="module")
def services(project: Project) -> dict:
    return project.read()["services"]


def test_a_name_that_compose_doesnt_know_is_noticed(tmp_path: Path) -> None:
    project = Project(tmp_path)
    file = project.folder / "compose.yaml"
    file.write_text(file.read_text().replace("pids_limit", "pids_limt"))
    with pytest.raises(AssertionError, match="pids_limt"):
        project.read()


def test_every_container_is_closed(services: dict) -> None:
    for name, told in services.items():
        assert told["read_only"] is True, name
        assert told["cap_drop"] == ["ALL"], name
        assert told["security_opt"] == ["no-new-privileges:true"], name
        assert told["user"] not in {"", "0", "0:0", "root"}, name
        assert not told.get("privileged"), name
        assert "cap_add" not in told, name


def test_ports_are_open_on_loopback_only(services: dict) -> None:
    ports = [port for told in services.values() for port in told.get("ports") or ()]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert {int(port["published"]) for port in ports} == {8333, 8443, 8444, 9464, 9465}


def test_what_only_brokers_need_is_on_a_network_that_leads_nowhere(project: Project) -> None:
    told = project.read()
    assert told["networks"]["parts"]["internal"] is True
    for name in ("hcvault", "opa", "postgresql"):
        assert list(told["services"][name]["networks"]) == ["parts"]
    for name in ("admin", "job"):
        assert list(told["services"][name]["networks"]) == ["clients"]


def test_secrets_are_files(services: dict) -> None:
    for name, told in services.items():
        for variable, value in (told.get("environment") or {}).items():
            secret = any(word in variable for word in ("PASSWORD", "SECRET", "TOKEN", "KEY"))
            assert not secret or str(value).startswith("/run/secrets/"), (name, variable)


def test_only_servers_that_keep_something_and_setup_may_write(services: dict) -> None:
    written = {
        (name, volume["target"])
        for name, told in services.items()
        for volume in told.get("volumes") or ()
        if not volume.get("read_only")
    }
    setup = {("prepare", "/state"), ("found", "/var/lib/modelvault")}
    assert {target for _, target in written - setup} == KEPT
    assert written >= setup


def test_the_deployment_file(project: Project, services: dict) -> None:
    told = deployment.read(project.folder / "broker.toml")
    (trusted,) = presets.read(told.issuers)
    assert trusted.issuer.name == "idp"
    mounted = {
        mount.target
        for mount in project.container("broker-1").mounts
        if not mount.target.startswith("/var/lib")
    }
    named = {
        told.serve.tls.certificate, told.serve.tls.key, told.keys.ca, told.ledger.password_file,
        told.objects.ca, told.objects.credentials_file, told.policy.bundle_token_file,
        told.policy.opa.token_file, told.policy.opa.ca, Path(trusted.keys.file),
    }  # fmt: skip
    assert {str(path) for path in named} == mounted - {"/etc/modelvault/broker.toml"}
    assert services["broker-1"]["command"] == ["serve", "/etc/modelvault/broker.toml"]


def test_opa_runs_as_the_library_says(services: dict) -> None:
    told = services["opa"]
    wanted = opa_server.command(
        Path("/opa"),
        "0.0.0.0:8181",
        Path("/var/lib/modelvault/opa.json"),
        certificate=Path("/run/secrets/opa.pem"),
        key=Path("/run/secrets/opa.key"),
    )
    policies = [f"/etc/opa/{path.name}" for path in opa_server.system_policies()]
    assert [*told["entrypoint"], *told["command"]] == [*wanted[: -len(policies)], *policies]


def test_images_name_a_version_and_no_host(services: dict) -> None:
    for name in SERVED:
        image, _, version = services[name]["image"].partition(":")
        assert version not in {"", "latest"}, name
        assert "." not in image.partition("/")[0], name


def test_nothing_of_a_run_is_committed() -> None:
    assert {"state/", "models/", ".env"} <= set(
        (EXAMPLE / "compose" / ".gitignore").read_text().split()
    )
