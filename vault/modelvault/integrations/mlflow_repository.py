"""The class that MLflow asks for; what outlives its objects is in `integrations.mlflow`."""

from __future__ import annotations

import logging
import os
import posixpath
import secrets
import tempfile
from pathlib import Path, PurePosixPath
from typing import NoReturn

from modelvault.errors import InvalidRequest, ModelVaultError, NotFound
from modelvault.integrations.addresses import SCHEME, Address
from modelvault.integrations.mlflow import here, keep
from modelvault.integrations.mlflow_folders import Folder, Held
from modelvault.loader.filesystems import in_memory
from modelvault.loader.ramfiles import RamFiles

try:
    from mlflow.entities import FileInfo
    from mlflow.store.artifact.artifact_repo import ArtifactRepository, verify_artifact_path
    from mlflow.utils.file_utils import create_tmp_dir
except ImportError:
    raise InvalidRequest(
        "missing_extra",
        "MLflow isn't installed",
        "pip install 'encrypted-model-vault[mlflow]'",
    ) from None

_LOG = logging.getLogger("modelvault.mlflow")
# How a server process of MLflow knows that all artifacts go through it.
_PROXIED = "_MLFLOW_SERVER_ARTIFACT_DESTINATION"


class ModelVaultArtifactRepository(ArtifactRepository):  # type: ignore[misc, unused-ignore]
    """The folder of one run or one logged model. Threads may use it at once.

    Who is asking, and which vault, comes from the environment, as in `modelvault.connect()`; what
    for from MODELVAULT_PURPOSE. The model NAME is made beforehand: `modelvault create NAME`.
    Methods raise what a Session's do.
    """

    def __init__(
        self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
    ) -> None:
        """Raises InvalidRequest: `bad_reference`, `proxied_artifacts`."""
        if os.environ.get(_PROXIED, "").startswith(f"{SCHEME}:"):
            raise InvalidRequest(
                "proxied_artifacts",
                "this MLflow server would load and push for everybody, under its own identity",
                "start it with --default-artifact-root modelvault://NAME --no-serve-artifacts, so "
                "that each client asks for itself",
            )
        address = Address.parse(artifact_uri)
        if set(address.reference) & {":", "@", "/"}:
            raise InvalidRequest(
                "bad_reference",
                f"an artifact root is modelvault://NAME, and not {artifact_uri[:80]!r}",
                "name a model of the default tenant, without a tag or a version",
            )
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        self._folder = Folder.at(address.reference, address.path)

    # in

    def log_artifact(self, local_file: str | Path, artifact_path: str | None = None) -> None:
        """Push a file as a version of its own.

        Raises InvalidRequest (`plaintext_in_tmp`) for a temporary file that lies on a disk.
        """
        self._push(Path(local_file), artifact_path)

    def log_artifacts(self, local_dir: str | Path, artifact_path: str | None = None) -> None:
        """Push the files of a folder as one version; errors as `log_artifact`.

        Names that begin with a dot are left out, as in each push, with a warning.
        """
        folder = Path(local_dir)
        if any(path.is_file() for path in folder.rglob("*")):
            self._push(folder, artifact_path)

    # out

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """What is directly in a folder, by name; nothing for a file, or where nothing is."""
        inside = f"{path.strip('/')}/" if path else ""
        found: dict[str, FileInfo] = {}
        for held in self._held().values():
            if held.artifact.startswith(inside):
                name, _, below = held.artifact.removeprefix(inside).partition("/")
                size = None if below else held.size
                found[inside + name] = FileInfo(inside + name, bool(below), size)
        return [found[name] for name in sorted(found)]

    def download_artifacts(self, artifact_path: str, dst_path: str | None = None) -> str:
        """Put a file or a folder below `dst_path`, or below a new temporary folder; where it is.

        Where that is memory, the files are there as long as this process and its lease. Anywhere
        else it is an export, which a policy may refuse (`memory_only`).
        """
        artifact_path = (artifact_path or "").strip("/")
        wanted = [
            held
            for held in self._held().values()
            if not artifact_path or PurePosixPath(held.artifact).is_relative_to(artifact_path)
        ]
        if not wanted and artifact_path:
            raise _no_file(self.artifact_uri, artifact_path)
        destination = Path(dst_path or create_tmp_dir())
        self._put(
            {
                held: Path(self._create_download_destination(held.artifact, str(destination)))
                for held in wanted
            },
            destination,
        )
        return str(destination / artifact_path)

    def _download_file(self, remote_file_path: str, local_path: str | Path) -> None:
        # For what MLflow fetches file by file: traces, and registered models.
        held = self._held().get(posixpath.normpath(remote_file_path))
        if held is None:
            raise _no_file(self.artifact_uri, remote_file_path)
        self._put({held: Path(local_path)}, Path(local_path).parent)

    def delete_artifacts(self, artifact_path: str | None = None) -> NoReturn:
        """Refused (`read_only`): a vault's versions are tagged, signed and kept."""
        raise InvalidRequest(
            "read_only",
            f"{artifact_path or self.artifact_uri} can't be deleted: versions never change",
            f"end their use: `modelvault show {self._folder.model}`, then `modelvault revoke`",
        )

    def _push(self, local: Path, artifact_path: str | None) -> None:
        verify_artifact_path(artifact_path)
        if _temporary(local) and not in_memory(local):
            raise InvalidRequest(
                "plaintext_in_tmp",
                f"MLflow has written this to a disk in the clear: {local}",
                "start the program with a temporary folder in memory, as TMPDIR=/dev/shm",
            )
        session = here().session()
        for name in session.inspect(local).skipped:
            _LOG.warning("left out of %s: %s", self.artifact_uri, name)
        session.push(
            local,
            self._folder.tagged(secrets.token_hex(4)),
            labels=self._folder.labels(artifact_path or ""),
        )

    def _held(self) -> dict[str, Held]:
        return self._folder.held(here().session())

    def _put(self, places: dict[Held, Path], destination: Path) -> None:
        put = _in_memory if in_memory(destination) else _exported
        for version in dict.fromkeys(held.version for held in places):
            mine = {held.path: place for held, place in places.items() if held.version == version}
            try:
                put(version, mine, destination)
            except ModelVaultError as error:
                # MLflow itself tells the reason to nobody: it looks in two places, and forgets why
                # the first had nothing.
                _LOG.warning("%s: %s", error.message, error.hint)
                raise


def _in_memory(version: str, places: dict[str, Path], destination: Path) -> None:
    """Under the lease that this process has of the version."""
    files = RamFiles(
        destination, {path: str(place.relative_to(destination)) for path, place in places.items()}
    )
    model = here().model(version, files.close)
    keep(files)
    for place in places.values():
        place.unlink(missing_ok=True)
    try:
        model.fill(files, *places)
    except BaseException:
        files.close()
        raise


def _exported(version: str, places: dict[str, Path], destination: Path) -> None:
    _LOG.warning("%s is exported: it lies in the clear in %s", version, destination)
    with tempfile.TemporaryDirectory(dir=destination, prefix=".modelvault-") as folder:
        draft = Path(folder) / "export"
        here().session().export(version, draft, files=list(places))
        for path, place in places.items():
            (draft / path).replace(place)


def _no_file(uri: str, path: str) -> NotFound:
    return NotFound("no_file", f"{uri} has no {path!r}", "see `mlflow artifacts list`")


def _temporary(path: Path) -> bool:
    return path.resolve().is_relative_to(Path(tempfile.gettempdir()).resolve())
