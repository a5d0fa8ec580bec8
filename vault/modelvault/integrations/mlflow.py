"""MLflow's artifacts in a vault: an artifact root `modelvault://NAME`, NAME being a model of it.

    mlflow server --default-artifact-root modelvault://churn --no-serve-artifacts ...
    MODELVAULT_PURPOSE=inference TMPDIR=/dev/shm python train.py

MLflow knows one folder of artifacts for each run and each logged model, and adds to it; a vault's
versions never change. So each call that logs makes one version, labelled with the folder that it
adds to, and tagged so that it is found; what a folder holds is what its versions hold, the newest
winning. The client encrypts and decrypts: the server sees no weights and needs no identity.

MLflow opens what it loads as files. In a folder that is memory (TMPDIR on a tmpfs) that is a load:
the lease lasts as long as the process, and with it end the files. Anywhere else it is an `export`.
"""

from __future__ import annotations

import atexit
import importlib
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from modelvault.integrations.leases import Leases

if TYPE_CHECKING:
    from modelvault.client.session import Session
    from modelvault.integrations.mlflow_repository import ModelVaultArtifactRepository
    from modelvault.loader.ramfiles import RamFiles

__all__ = ["ModelVaultArtifactRepository", "close"]

_lock = threading.Lock()
_leases: Leases | None = None
_files: list[RamFiles] = []


def __getattr__(name: str) -> object:
    # MLflow asks for the class while it is imported itself: so it must be able to be made then, and
    # mustn't be under way already.
    if name == "ModelVaultArtifactRepository":
        with suppress(ImportError):  # told of below
            importlib.import_module("mlflow")
        from modelvault.integrations.mlflow_repository import ModelVaultArtifactRepository

        return ModelVaultArtifactRepository
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def close() -> None:
    """Give back the leases of what this process loaded, and wipe and remove its files.

    Happens by itself when the process ends.
    """
    with _lock:
        for files in _files:
            files.close()
        _files.clear()
        if _leases is not None:
            _leases.close()


def keep(files: RamFiles) -> None:
    """They stay until `close`."""
    with _lock:
        _files.append(files)


def here() -> Leases:
    """One session and its leases for all of this process: what MLflow opens by names has to stay
    after the repository that put it there."""
    global _leases
    with _lock:
        if _leases is None or not _leases.open:
            _leases = Leases(_connect, None)
            atexit.register(close)
        return _leases


def _connect() -> Session:
    from modelvault.wiring import connect

    return connect()
