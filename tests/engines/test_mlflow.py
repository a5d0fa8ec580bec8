"""MLflow's artifacts in a vault: a real server, real clients, and what is left on the disk."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelvault import connect, wiring
from modelvault.client.session import Session
from modelvault.errors import AccessDenied, InvalidRequest, ModelVaultError, NotFound
from support.engines import ROOT, need
from support.homes import isolated, safetensors_bytes
from support.models import tiny_llama
from support.plaintext import Plaintext
from support.servers.process import Process, free_port

registry = need("mlflow.store.artifact.artifact_repository_registry")
plugin = need("modelvault.integrations.mlflow")

EXAMPLE = ROOT / "examples/mlflow_server.py"
WEIGHTS = np.random.default_rng(7).standard_normal((64, 64)).astype(np.float32)  # the example's
FOLDER = "0/abc/artifacts"
SHM = Path("/dev/shm")


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A vault, and temporary files in memory; all else is on a disk."""
    if not SHM.exists():
        pytest.skip("no shared memory to be a temporary folder")
    ram = tempfile.mkdtemp(dir=SHM)
    with pytest.MonkeyPatch.context() as patched:
        isolated(tmp_path_factory.mktemp("mlflow"), patched)
        patched.setenv("MODELVAULT_PURPOSE", "inference")
        patched.setenv("TMPDIR", ram)
        patched.setattr(tempfile, "tempdir", None)
        wiring.init()
        with connect() as opened:
            yield opened
    shutil.rmtree(ram)


@pytest.fixture
def churn(vault: Session) -> Iterator[str]:
    """A model of its own for each test."""
    name = f"churn-{secrets.token_hex(4)}"
    vault.create(name)
    yield name
    plugin.close()
    assert vault.leases(name) == ()


@pytest.fixture
def ram(vault: Session) -> Path:
    """The temporary folder."""
    return Path(tempfile.gettempdir())


def repository(model: str, folder: str = FOLDER) -> Any:
    return registry.get_artifact_repository(f"modelvault://{model}/{folder}")


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_it_may_be_imported_before_mlflow() -> None:
    """MLflow asks for what is registered while it is imported: also by us."""
    asked = (
        "import modelvault.integrations.mlflow as plugin\n"
        "made = plugin.ModelVaultArtifactRepository\n"
        "import mlflow.store.artifact.artifact_repository_registry as registry\n"
        "assert registry.get_artifact_repository('modelvault://m/0/a') is not None\n"
    )
    run = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=False)
    assert (run.returncode, "Failure attempting" in run.stderr) == (0, False), run.stderr


# a real server


@pytest.mark.slow
def test_log_and_load_through_a_server(
    churn: str, vault: Session, tmp_path: Path, ram: Path
) -> None:
    plain = ram / "plain"
    plain.write_bytes(safetensors_bytes({"w": WEIGHTS}))
    plaintext = Plaintext(plain)
    plain.unlink()
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    # It has no identity and no purpose: clients ask the vault for themselves.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MODELVAULT_")}
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet"}
    server = Process(
        [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
         "--workers", "1", "--backend-store-uri", f"sqlite:///{tmp_path}/runs.db",
         "--default-artifact-root", f"modelvault://{churn}", "--no-serve-artifacts"],
        log=tmp_path / "log", ready=lambda: _answers(address), cwd=tmp_path, ready_s=120,
        env=environment | {"TMPDIR": str(tmp_path), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    )  # fmt: skip
    try:
        client = os.environ | environment | {"MLFLOW_TRACKING_URI": address}
        uri = _example(client, tmp_path, "train").splitlines()[-1]
        assert uri.startswith("models:/m-")
        told = _example(client, tmp_path, "predict", uri).splitlines()[-1]
        assert float(told) == pytest.approx(float(WEIGHTS.sum()), abs=1e-2)
    finally:
        server.stop()
    assert plaintext.left(tmp_path, Path(os.environ["HOME"])) == []
    assert plaintext.left(ram) == [], "nor have the trainer and the loader left it in memory"
    left = {Path(path).name for path in files_in(ram) if Path(path).suffix != ".pyc"}
    assert left <= {"registered_model_meta"}, "a note of MLflow's own, and code that was compiled"
    assert {tag.version for tag in vault.show(churn).summary.tags} == {1, 2}
    ended = vault.leases(churn, ended=True)
    assert {(lease.action, lease.purpose, lease.end_reason) for lease in ended} == {
        ("load", "inference", "released")
    }


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health") as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _example(environment: dict[str, str], cwd: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments],
        env=environment, cwd=cwd, capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


# a flavour whose model is a folder of files, as transformers saves them


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")
def test_transformers(churn: str, vault: Session, ram: Path, tmp_path: Path) -> None:
    transformers, mlflow = need("transformers"), need("mlflow.transformers")
    pipeline = transformers.pipeline("text-generation", model=str(tiny_llama(ram / "llama")))
    expected = generated(pipeline)
    mlflow.save_model(pipeline, ram / "saved", pip_requirements=[])
    plaintext = Plaintext(ram / "saved/model")
    repository(churn).log_artifacts(ram / "saved", "model")
    for name in ("llama", "saved"):
        shutil.rmtree(ram / name)
    loaded = mlflow.load_model(f"modelvault://{churn}/{FOLDER}/model")
    assert generated(loaded) == expected
    (lease,) = vault.leases(churn)
    assert (lease.action, lease.purpose) == ("load", "inference")
    plugin.close()
    assert plaintext.left(tmp_path, ram, Path(os.environ["HOME"])) == []


def generated(pipeline: Any) -> list[int]:
    """What it says by itself, token by token."""
    asked = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "return_tensors": True}
    (said,) = pipeline("The weights", **asked)
    tokens = list(said["generated_token_ids"])
    assert len(set(tokens)) > 1
    return tokens


# what a folder holds


@pytest.fixture
def logged(churn: str, vault: Session, tmp_path: Path) -> Any:
    """A folder that was logged in three steps; what is in the clear is gone again."""
    files = tmp_path / "files"
    (files / "sub").mkdir(parents=True)
    (files / "a.dat").write_bytes(WEIGHTS.tobytes())
    (files / "sub/b.dat").write_bytes(WEIGHTS[::-1].tobytes())
    made = repository(churn)
    made.log_artifacts(files, "model")
    made.log_artifact(files / "a.dat")
    (files / "a.dat").write_bytes(b"newer")
    made.log_artifact(str(files / "a.dat"), "model")
    shutil.rmtree(files)
    return made


def listed(folder: Any, path: str | None = None) -> list[tuple[str, bool, int | None]]:
    return [(info.path, info.is_dir, info.file_size) for info in folder.list_artifacts(path)]


def test_the_newest_of_each_counts(churn: str, logged: Any) -> None:
    assert listed(logged) == [("a.dat", False, 16384), ("model", True, None)]
    assert listed(logged, "model") == [("model/a.dat", False, 5), ("model/sub", True, None)]
    assert listed(logged, "model/a.dat") == []
    assert listed(logged, "nothing") == []
    assert listed(repository(churn, FOLDER + "/model"), "sub") == [("sub/b.dat", False, 16384)]
    assert listed(repository(churn, "0/another/artifacts")) == []
    with Path(logged.download_artifacts("model/a.dat")).open("rb") as file:
        assert file.read() == b"newer"


def test_what_is_loaded_is_memory_and_ends_with_the_lease(
    churn: str, vault: Session, logged: Any, ram: Path
) -> None:
    whole = Path(logged.download_artifacts(""))
    part = Path(repository(churn, FOLDER + "/model").download_artifacts("sub/b.dat"))
    assert files_in(whole) == ["a.dat", "model/a.dat", "model/sub/b.dat"]
    assert part.read_bytes() == WEIGHTS[::-1].tobytes()
    assert whole.is_relative_to(ram)
    assert part.is_relative_to(ram)
    assert len(vault.leases(churn)) == 3, "one for each version"
    with pytest.raises(PermissionError) if os.geteuid() else _nothing():
        (whole / "a.dat").open("r+b").close()
    plugin.close()
    assert files_in(whole) == []
    assert vault.leases(churn) == ()
    assert Path(logged.download_artifacts("a.dat")).exists(), "and it can be asked for again"


class _nothing:  # noqa: N801
    def __enter__(self) -> None: ...
    def __exit__(self, *_args: object) -> None: ...


@pytest.mark.parametrize("newest", ["file", "folder"])
def test_a_file_in_one_version_and_a_folder_in_another(churn: str, ram: Path, newest: str) -> None:
    """The newer one counts, and all of the run can be had."""
    made = repository(churn)
    file, inner = ram / "m", ram / "inner.dat"
    file.write_bytes(b"a file" * 100)
    inner.write_bytes(b"in a folder" * 100)
    steps = [lambda: made.log_artifact(str(file)), lambda: made.log_artifact(str(inner), "m")]
    for step in steps if newest == "folder" else reversed(steps):
        step()
    place = Path(made.download_artifacts(""))
    assert files_in(place) == (["m"] if newest == "file" else ["m/inner.dat"])
    assert [found.is_dir for found in made.list_artifacts()] == [newest == "folder"]
    file.unlink()
    inner.unlink()


def test_a_revocation_takes_the_files_and_a_load_asks_anew(
    churn: str, vault: Session, logged: Any
) -> None:
    place = Path(logged.download_artifacts("a.dat"))
    plugin._leases._held[f"{churn}@2"].end("revoked")
    assert not place.exists()
    assert Path(logged.download_artifacts("a.dat")).exists()
    assert len(vault.leases(churn, ended=True)) > 1


def test_a_destination_on_a_disk_is_an_export(
    churn: str, vault: Session, logged: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert logged.download_artifacts("model", str(out)) == str(out / "model")
    assert files_in(out) == ["model/a.dat", "model/sub/b.dat"]
    assert {lease.action for lease in vault.leases(churn, ended=True)} == {"export"}
    assert {path.stat().st_mode & 0o777 for path in out.rglob("*.dat")} == {0o600}


def test_files_are_gone_before_the_leases(
    logged: Any, ram: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that takes its time leaves nothing in a folder meanwhile."""
    place = Path(logged.download_artifacts("model"))
    assert files_in(place) == ["a.dat", "sub/b.dat"]
    leases, seen = plugin._leases, []
    assert leases is not None
    close = leases.close

    def closing() -> None:
        seen.append(files_in(place))
        close()

    monkeypatch.setattr(leases, "close", closing)
    plugin.close()
    assert seen == [[]]


def test_an_export_that_the_policy_refuses(
    churn: str, vault: Session, logged: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """MLflow forgets why, so the plugin says it."""
    monkeypatch.setenv("MODELVAULT_TOKEN", vault.mint_token(sub="reader", groups=["inference"]))
    plugin.close()
    out = tmp_path / "out"
    out.mkdir()
    with caplog.at_level(logging.WARNING, "modelvault.mlflow"), pytest.raises(AccessDenied):
        logged.download_artifacts("model", str(out))
    assert f"may not export default/{churn}@" in caplog.text
    assert files_in(out) == []
    assert files_in(Path(logged.download_artifacts("model"))) == ["a.dat", "sub/b.dat"]


def test_versions_are_not_deleted_by_mlflow(logged: Any) -> None:
    for path in (None, "model"):
        with pytest.raises(InvalidRequest) as refused:
            logged.delete_artifacts(path)
        assert (refused.value.code, "revoke" in refused.value.hint) == ("read_only", True)
    assert listed(logged) != []


# refused


def test_a_temporary_folder_on_a_disk(
    churn: str, vault: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """log_model, log_text and their like write there first, in the clear."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    folder = Path(tempfile.mkdtemp())
    (folder / "weights").write_bytes(b"w")
    for log in (lambda: repository(churn).log_artifacts(folder, "model"),
                lambda: repository(churn).log_artifact(folder / "weights")):  # fmt: skip
        with pytest.raises(InvalidRequest) as refused:
            log()
        assert refused.value.code == "plaintext_in_tmp"
        assert "TMPDIR=/dev/shm" in refused.value.hint
    assert vault.show(churn).summary.versions == 0


def test_a_server_that_would_ask_for_everybody(
    churn: str, vault: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = need("mlflow.store.artifact.host_policy")
    monkeypatch.setenv(constants._SERVER_ARTIFACTS_DESTINATION_ENV_VAR, f"modelvault://{churn}")
    with pytest.raises(InvalidRequest) as refused:
        repository(churn)
    assert refused.value.code == "proxied_artifacts"


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("modelvault://", "no_model_named"),
        ("modelvault://churn@1/0/abc/artifacts", "bad_reference"),
        ("modelvault://team/churn:prod/0/abc/artifacts", "bad_reference"),
        ("modelvault://ch urn/0/abc/artifacts", "bad_reference"),
    ],
)
def test_roots_that_are_none(uri: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        registry.get_artifact_repository(uri)
    assert refused.value.code == code


def test_what_isnt_there(vault: Session, logged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for ask in (lambda: logged.download_artifacts("nothing"),
                lambda: logged._download_file("model/../nothing", "/dev/shm/x"),
                repository("nobody").list_artifacts):  # fmt: skip
        with pytest.raises(NotFound):
            ask()
    monkeypatch.delenv("MODELVAULT_PURPOSE")
    with pytest.raises(ModelVaultError) as refused:
        logged.download_artifacts("model")
    assert refused.value.code == "no_purpose"


def test_an_empty_folder_is_nothing(churn: str, vault: Session, tmp_path: Path) -> None:
    (tmp_path / "empty/er").mkdir(parents=True)
    repository(churn).log_artifacts(tmp_path / "empty")
    assert listed(repository(churn)) == []
    assert Path(repository(churn).download_artifacts("")).is_dir()


def test_names_that_begin_with_a_dot_are_left_out_and_told(
    churn: str, vault: Session, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "some").mkdir()
    (tmp_path / "some/.env").write_text("x")
    (tmp_path / "some/file").write_text("x")
    with caplog.at_level(logging.WARNING, "modelvault.mlflow"):
        repository(churn).log_artifacts(tmp_path / "some")
    assert f"left out of modelvault://{churn}/0/abc/artifacts: .env" in caplog.text
    assert listed(repository(churn)) == [("file", False, 1)]


def test_a_version_that_says_to_climb_out_is_none_of_ours(
    churn: str, vault: Session, tmp_path: Path
) -> None:
    """Whoever may push writes labels as he likes."""
    evil = tmp_path / "evil"
    evil.write_bytes(b"evil")
    for number, path in enumerate(("../../out", "/etc", "a/../..", "a//b", ".")):
        labels = {"mlflow.folder": "0/abc/artifacts", "mlflow.path": path}
        vault.push(evil, f"{churn}:0.abc.{number}", labels=labels)
    labels = {"mlflow.folder": "0/another/artifacts", "mlflow.path": ""}
    vault.push(evil, f"{churn}:0.abc.9", labels=labels)
    assert listed(repository(churn)) == []
