"""Documents about models, versions, leases and keys."""

from __future__ import annotations

import msgspec

from modelvault.lease import LeaseSummary, ModelSummary, VersionSummary
from modelvault.manifest import CopiedFrom, Hints, Provenance
from modelvault_cli.documents.base import Document, Obligations


class Model(Document, frozen=True, kw_only=True):
    """`create` and `classify`: the model as it now is."""

    model: ModelSummary


class Push(Document, frozen=True, kw_only=True):
    """`push`: the version that was made (null in a dry run), and what was found.

    `unsound` says of files of weights what engines won't take of them. `unchanged` files of
    `unchanged_size` bytes together were not uploaded again; sizes are of plaintext."""

    dry_run: bool
    model: str
    version: int | None
    tag: str | None
    manifest: str | None
    files: int
    size: int
    formats: tuple[str, ...]
    pickles: tuple[str, ...]
    skipped: tuple[str, ...]
    unsound: tuple[str, ...]
    unchanged: int
    unchanged_size: int
    elapsed_ms: int


class Tensor(msgspec.Struct, frozen=True):
    """A tensor as it was seen in memory."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


class FileSize(msgspec.Struct, frozen=True):
    """A file and its plaintext size."""

    path: str
    size: int


class GgufFile(msgspec.Struct, frozen=True, kw_only=True):
    """A GGUF file: what kind of model its metadata names (`gemma3`), and of what type most of it
    is (`Q4_K_M`); empty where it doesn't say."""

    path: str
    architecture: str
    quantisation: str


class Load(Document, frozen=True, kw_only=True):
    """`load`: what was decrypted, and wiped again."""

    model: str
    version: int
    purpose: str
    files: tuple[FileSize, ...]
    tensors: tuple[Tensor, ...]
    gguf: tuple[GgufFile, ...]
    size: int
    obligations: Obligations
    elapsed_ms: int


class Copied(Document, frozen=True, kw_only=True):
    """`pull` and `export`: what lies in the folder now; `hold`: what lay there."""

    model: str
    version: int
    folder: str
    files: tuple[FileSize, ...]
    size: int


class CopyMade(Document, frozen=True, kw_only=True):
    """`copy` and `import`: the version that stands in the receiving vault, and what it is a copy
    of; `new` is false where it stood there before."""

    model: str
    version: int
    tag: str | None
    manifest: str
    new: bool
    source: CopiedFrom
    files: int
    size: int
    elapsed_ms: int


class Invited(Document, frozen=True, kw_only=True):
    """`invite`: the import that was begun, until when it can be ended, and where it is told of."""

    model: str
    upload: str
    expires_at: str
    file: str


class Listing(Document, frozen=True, kw_only=True):
    """`list`: some models by name, and the name to go on `--after` (null: that was the last)."""

    models: tuple[ModelSummary, ...]
    next: str | None


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """The version that a reference means, by its verified manifest.

    `tensors` and `dtypes`, {type: bytes of all tensors of it}, are null unless it was pushed with
    --public-metadata."""

    version: int
    manifest: str
    previous: str | None
    created_at: str
    created_by: str
    digest_alg: str
    files: tuple[FileSize, ...]
    size: int
    hints: Hints
    labels: dict[str, str]
    provenance: Provenance
    tensors: int | None
    dtypes: dict[str, int] | None


class Show(Document, frozen=True, kw_only=True):
    """`show`: a model, its versions, and the one that was asked for."""

    model: ModelSummary
    versions: tuple[VersionSummary, ...]
    selected: Shown | None


class Tagged(Document, frozen=True, kw_only=True):
    """`tag`: where the tag points now."""

    model: str
    tag: str
    version: int
    manifest: str
    serial: int


class Deleted(Document, frozen=True, kw_only=True):
    """`delete`: what is hidden now."""

    target: str


class RotatedModel(Document, frozen=True, kw_only=True):
    """`rotate`: the key version in force and how many wrapped keys were rewrapped."""

    model: str
    kek_version: int
    rewrapped: int


class Revoked(Document, frozen=True, kw_only=True):
    """`revoke` and `lease revoke`: how many running leases that ended."""

    kind: str
    target: str
    ended: int


class Leases(Document, frozen=True, kw_only=True):
    """`lease list`: leases, newest first."""

    leases: tuple[LeaseSummary, ...]


class LeaseShown(Document, frozen=True, kw_only=True):
    """`lease show`."""

    lease: LeaseSummary
