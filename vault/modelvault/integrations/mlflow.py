"""MLflow's artifacts in a vault: an artifact root `modelvault://NAME`, NAME being a model of it.

    mlflow server --default-artifact-root modelvault://churn --no-serve-artifacts ...
    MODELVAULT_PURPOSE=inference TMPDIR=/dev/shm python train.py

MLflow knows one folder of artifacts for each run and each logged model, and adds to it; a vault's
versions never change. So each call that logs makes one version, labelled with the folder that it
adds to, and tagged so that it is found; what a folder holds is what its versions hold, the newest
winning. The client encrypts and decrypts: the server sees no weights and needs no identity.

What is loaded stays in memory: MLflow's temporary folder gets links to it. Real files, which is
what a destination outside of that folder gets, are an `export`.
"""

from __future__ import annotations

import atexit
import logging
import os
import posixpath
import secrets
import tempfile
import threading
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from modelvault.errors import InvalidRequest, NotFound
from modelvault.integrations.addresses import SCHEME, Address
from modelvault.integrations.leases import Leases
from modelvault.integrations.mlflow_folders import Folder, Held
from modelvault.loader.filesystems import in_memory

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

if TYPE_CHECKING:
    from modelvault.client.session import Session

_LOG = logging.getLogger("modelvault.mlflow")
# How a server process of MLflow knows that all artifacts go through it.
_PROXIED = "_MLFLOW_SERVER_ARTIFACT_DESTINATION"
_lock = threading.Lock()
_leases: Leases | None = None


def close() -> None:
    """Give back the leases of what this process loaded; links to it point nowhere then.

    Happens by itself when the process ends. Raises Conflict (`views_alive`).
    """
    with _lock:
        if _leases is not None:
            _leases.close()


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

        In a temporary folder these are links into memory, which last as long as this process and
        its lease. Anywhere else they are files in the clear: an export, which a policy may refuse.
        """
        artifact_path = (artifact_path or "").strip("/")
        wanted = [
            held
            for held in self._held().values()
            if not artifact_path or PurePosixPath(held.artifact).is_relative_to(artifact_path)
        ]
        if not wanted and artifact_path:
            raise NotFound(
                "no_file",
                f"{self.artifact_uri} has no {artifact_path!r}",
                "see `mlflow artifacts list`",
            )
        destination = Path(dst_path or create_tmp_dir())
        places = {
            held: Path(self._create_download_destination(held.artifact, str(destination)))
            for held in wanted
        }
        if _temporary(destination):
            self._link(places)
        else:
            self._export(places, destination)
        return str(destination / artifact_path)

    def _download_file(self, remote_file_path: str, local_path: str | Path) -> None:
        # For what MLflow fetches by itself: traces, and registered models.
        held = self._held().get(posixpath.normpath(remote_file_path))
        if held is None:
            raise NotFound("no_file", f"{self.artifact_uri} has no {remote_file_path!r}")
        place = Path(local_path)
        if _temporary(place.parent):
            self._link({held: place})
        else:
            self._export({held: place}, place.parent)

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Delete all versions of the folder. Raises InvalidRequest (`read_only`) for a part."""
        if artifact_path or self._folder.inside:
            raise InvalidRequest(
                "read_only",
                "a part of what was logged can't be deleted: versions never change",
                "delete the whole run or logged model",
            )
        session = _here().session()
        for version in self._folder.versions(session):
            session.delete(version)

    def _push(self, local: Path, artifact_path: str | None) -> None:
        verify_artifact_path(artifact_path)
        if _temporary(local) and not in_memory(local):
            raise InvalidRequest(
                "plaintext_in_tmp",
                f"MLflow has written this to a disk in the clear: {local}",
                "start the program with a temporary folder in memory, as TMPDIR=/dev/shm",
            )
        session = _here().session()
        for name in session.inspect(local).skipped:
            _LOG.warning("left out of %s: %s", self.artifact_uri, name)
        session.push(
            local,
            self._folder.tagged(secrets.token_hex(4)),
            labels=self._folder.labels(artifact_path or ""),
        )

    def _held(self) -> dict[str, Held]:
        return self._folder.held(_here().session())

    def _link(self, places: dict[Held, Path]) -> None:
        for held, place in places.items():
            model = _here().model(held.version)
            with suppress(FileNotFoundError):
                place.unlink()
            place.symlink_to(model.path(held.path) / held.path)

    def _export(self, places: dict[Held, Path], destination: Path) -> None:
        purpose = os.environ.get("MODELVAULT_PURPOSE") or "export"
        for version in {held.version for held in places}:
            mine = {held: place for held, place in places.items() if held.version == version}
            with tempfile.TemporaryDirectory(dir=destination, prefix=".modelvault-") as folder:
                draft = Path(folder) / "export"
                _here().session().export(
                    version, draft, purpose=purpose, files=[held.path for held in mine]
                )
                for held, place in mine.items():
                    (draft / held.path).replace(place)


def _here() -> Leases:
    """One session and its leases for all of this process: what MLflow opens by names has to stay
    after the repository that put it there."""
    global _leases
    with _lock:
        if _leases is None or not _leases.open:
            _leases = Leases(_connect, None)
            atexit.register(_leases.close)
        return _leases


def _connect() -> Session:
    from modelvault.wiring import connect

    return connect()


def _temporary(path: Path) -> bool:
    return path.resolve().is_relative_to(Path(tempfile.gettempdir()).resolve())
