"""docs/operations.md: its files are what the program reads."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import msgspec
import yaml
from prometheus_client.parser import text_string_to_metric_families

from modelvault import deployment, settings
from modelvault.artifact.meter import Phase
from modelvault.identity import presets
from modelvault.loader import metrics
from modelvault.policy import opa_server
from modelvault.server.metrics import Metrics

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
BROKER = PAGE[PAGE.index("Prometheus scrapes") : PAGE.index("**A job**")]
BLOCKS = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


def test_the_deployment_file(tmp_path: Path) -> None:
    path = tmp_path / "broker.toml"
    path.write_text(BLOCKS[0], "utf-8")
    told = deployment.read(path)
    assert told.vault.trust == tmp_path / "trust.json"
    assert told.policy.opa is not None
    (trusted,) = presets.read(told.issuers)
    assert trusted.issuer.name == "idp"


def test_a_clients_profile(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(BLOCKS[1], "utf-8")
    found = settings.read({"MODELVAULT_CONFIG": str(path)}, profile="prod")
    assert found.broker == "https://vault.example"
    assert found.trust == Path("/etc/modelvault/trust.json")


def test_every_section_of_a_deployment_is_told_of() -> None:
    told = set(tomllib.loads(BLOCKS[0]))
    fields = {field.name for field in msgspec.structs.fields(deployment.Deployment)}
    assert told == fields - {"limits"}


def test_every_metric_is_told_of() -> None:
    metrics = Metrics()
    metrics.watch_leases(lambda: 1)
    families = text_string_to_metric_families(metrics.text().decode())
    names = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    names = {name for name in names if not name.endswith("_created")}
    assert names == set(re.findall(r"^\| `(modelvault_\w+?)[`{]", BROKER, re.MULTILINE))


def test_a_jobs_metrics_are_told_of() -> None:
    names = {family.name for family in metrics.families()}
    assert names == set(re.findall(r"^\| `(modelvault_loader_\w+)[`{]", PAGE, re.MULTILINE))
    for phase in get_args(Phase):
        assert f"`{phase}`" in PAGE


def test_the_parts_that_can_be_down_are_told_of() -> None:
    for code in (
        "key_service_unavailable", "policy_unavailable", "ledger_unavailable",
        "store_unavailable", "issuer_unavailable",
    ):  # fmt: skip
        assert f"`{code}`" in PAGE


def test_opas_configuration() -> None:
    told = yaml.safe_load(re.search(r"```yaml\n(services:.*?)```", PAGE, re.DOTALL).group(1))
    pem = told["keys"]["modelvault-bundle"]["key"]
    assert pem.splitlines()[0] == "-----BEGIN PUBLIC KEY-----"
    assert told == opa_server.config(
        "https://vault.example",
        pem,
        token_file=Path("/etc/opa/secrets/opa-bundle"),
        ca=Path("/etc/opa/tls/ca.pem"),
    )


def test_opas_command_line(tmp_path: Path) -> None:
    block = re.search(r"```sh\n(export MODELVAULT_OPA.*?)```", PAGE, re.DOTALL).group(1)
    variable, command = block.split("\n", 1)
    place = Path("/etc/opa")
    made = opa_server.command(
        Path("opa"),
        "0.0.0.0:8181",
        place / "opa.yaml",
        certificate=place / "tls" / "server.pem",
        key=place / "tls" / "server.key",
    )
    rules = {str(path): str(place / path.name) for path in opa_server.system_policies()}
    assert shlex.split(command.replace("\\\n", "")) == [rules.get(word, word) for word in made]

    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "opa").write_text("a token\n")
    said = subprocess.run(
        ["bash", "-c", f"{variable}; env"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    for name, text in opa_server.environment("a token").items():
        assert f"{name}={text}" in said.stdout.splitlines()


def test_opas_rules_lie_where_the_page_says(tmp_path: Path) -> None:
    copy = re.search(r"^    (cp .*) /etc/opa/$", PAGE, re.MULTILINE).group(1)
    shown = subprocess.run(
        ["bash", "-c", f"{copy} {shlex.quote(str(tmp_path))}"],
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    copied = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert copied == {path.name: path.read_bytes() for path in opa_server.system_policies()}
