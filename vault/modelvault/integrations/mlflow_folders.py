"""What MLflow keeps as a folder, as versions of one model that are labelled and tagged for it."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from typing import Protocol

import msgspec

from modelvault.errors import NotFound
from modelvault.lease import ModelDetail
from modelvault.manifest import Manifest

_ROOT = "mlflow.folder"
_PATH = "mlflow.path"
_READABLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


class Shows(Protocol):
    """What is needed of a session."""

    def show(self, reference: str) -> ModelDetail:
        """A model with its tags, or one version's verified documents."""
        ...


class Held(msgspec.Struct, frozen=True):
    """An artifact, and where it lies: a file `path`, of `size` bytes, of `version`."""

    artifact: str
    version: str
    path: str
    size: int


class Folder(msgspec.Struct, frozen=True):
    """A folder of artifacts in the model `model`: all of `root` (`1/<run>/artifacts`), or what is
    `inside` of it."""

    model: str
    root: str
    inside: str = ""

    @classmethod
    def at(cls, model: str, path: str) -> Folder:
        """The folder that MLflow calls `path`: its own ones end with `artifacts`, and it names
        folders in them the same way."""
        parts = path.split("/")
        length = parts.index("artifacts") + 1 if "artifacts" in parts else len(parts)
        return cls(model, "/".join(parts[:length]), "/".join(parts[length:]))

    def tagged(self, unique: str) -> str:
        """The reference for what is added next, under a tag of its own."""
        return f"{self.model}:{self._tag}.{unique}"

    def labels(self, path: str) -> dict[str, str]:
        """Of a version whose files are put below `path` in the folder."""
        return {_ROOT: self.root, _PATH: "/".join(part for part in (self.inside, path) if part)}

    def held(self, vault: Shows) -> dict[str, Held]:
        """What is in the folder, by its path there, the newest of each. What is a file in one
        version and a folder in another is what the newer says.

        Raises what `Session.show` raises.
        """
        inside = f"{self.inside}/" if self.inside else ""
        found: dict[str, Held] = {}
        folders: set[str] = set()
        for manifest in self._manifests(vault):
            below = PurePosixPath(manifest.labels.get(_PATH, ""))
            for entry in manifest.files:
                place = str(below / entry.path)
                if place.startswith(inside):
                    artifact = place.removeprefix(inside)
                    version = f"{self.model}@{manifest.version}"
                    above = {str(each) for each in PurePosixPath(artifact).parents}
                    if artifact not in folders and above.isdisjoint(found):
                        folders |= above
                        found.setdefault(artifact, Held(artifact, version, entry.path, entry.size))
        return found

    @property
    def _tag(self) -> str:
        readable = self.root.removesuffix("/artifacts").replace("/", ".")
        if _READABLE.fullmatch(readable):
            return readable
        return hashlib.sha256(self.root.encode()).hexdigest()[:32]

    def _manifests(self, vault: Shows) -> list[Manifest]:
        """Tags only lead there: what counts is what the signed manifests say."""
        tags = vault.show(self.model).summary.tags
        numbers = {tag.version for tag in tags if tag.tag.startswith(f"{self._tag}.")}
        found = []
        for number in sorted(numbers, reverse=True):
            manifest = _manifest(vault, f"{self.model}@{number}")
            if manifest is not None and _ours(manifest.labels, self.root):
                found.append(manifest)
        return found


def _manifest(vault: Shows, reference: str) -> Manifest | None:
    try:
        signed = vault.show(reference).signed
    except NotFound:  # deleted since
        return None
    return None if signed is None else Manifest.from_bytes(signed.manifest.payload)


def _ours(labels: dict[str, str], root: str) -> bool:
    """A pusher's word: a path that climbs out isn't one of ours, whoever wrote it."""
    path = labels.get(_PATH, "")
    parts = path.split("/") if path else []
    return labels.get(_ROOT) == root and not {"", ".", ".."}.intersection(parts)
