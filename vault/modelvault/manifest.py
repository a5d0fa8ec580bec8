"""The manifest: one for each version, immutable, composed and signed by the broker."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from modelvault import canonical
from modelvault.errors import IntegrityError, InvalidRequest
from modelvault.reference import NAME

PAYLOAD_TYPE = "application/vnd.modelvault.manifest.v1+json"
MAX_BYTES = 64 << 20
MAX_FILES = 10_000
MAX_PATH_BYTES = 1024
MIN_SEGMENT = 64
DEFAULT_SEGMENT = 1 << 20
MAX_SEGMENT = 1 << 26

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")

# Patterns end in \Z: `$` would let a line feed follow.
Id = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
Digest = Annotated[str, Meta(pattern=r"^(sha256|blake3):[0-9a-f]{64}\Z")]
Sha256 = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
Name = Annotated[str, Meta(pattern=rf"^{NAME}\Z")]
ObjectName = Annotated[str, Meta(pattern=r"^objects/[0-9a-f]{32}\Z")]
Time = Annotated[str, Meta(pattern=r"^[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}\.[0-9]{3}Z\Z")]
Count = Annotated[int, Meta(ge=0, le=canonical.MAX_INTEGER)]
Positive = Annotated[int, Meta(ge=1, le=canonical.MAX_INTEGER)]
MAX_TENSOR_NAME = 1024
MAX_LABEL = 256
Label = Annotated[str, Meta(max_length=MAX_LABEL)]
DigestAlgorithm = Literal["blake3", "sha256"]


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file: its plaintext size in bytes, its geometry and the two objects that hold it.

    `artifact` names the DEK; `object` holds the FLOE ciphertext, `leaves` its leaf list, and
    `digest` is the digest over that list.
    """

    path: str
    size: Count
    segment_length: Annotated[int, Meta(ge=MIN_SEGMENT, le=MAX_SEGMENT)]
    artifact: Id
    object: ObjectName
    leaves: ObjectName
    digest: Digest


class Hints(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the pusher's machine found in the files. Good for refusing, never for allowing."""

    formats: tuple[Label, ...] = ()
    pickles: tuple[str, ...] = ()


class CopiedFrom(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The version of another vault that this one is a copy of."""

    vault: Id
    tenant: Name
    model: Name
    version: Positive
    manifest: Sha256


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where the weights come from, by the pusher's word; `copied_from` is the broker's own."""

    base: Label | None = None
    base_digest: Sha256 | None = None
    training_run: Label | None = None
    source_commit: Label | None = None
    copied_from: CopiedFrom | None = None


class TensorEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor's public description, only where the pusher asked for `--public-metadata`."""

    file: str
    name: Annotated[str, Meta(max_length=MAX_TENSOR_NAME)]
    dtype: Label
    shape: tuple[Count, ...]
    bytes: Count


def object_names(files: Iterable[FileEntry]) -> tuple[str, ...]:
    """The objects of some files in the order in which a reader wants them: a leaf list, then what
    it vouches for."""
    return tuple(name for file in files for name in (file.leaves, file.object))


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a version is. Broker and ledger decide all fields but those of the files' contents."""

    schema: Literal[1] = 1
    vault: Id
    tenant: Name
    model: Name
    version: Positive
    artifact: Id
    created_at: Time
    created_by: str
    previous: Sha256 | None
    digest_alg: DigestAlgorithm
    files: tuple[FileEntry, ...]
    hints: Hints
    labels: dict[Label, Label]
    provenance: Provenance
    tensors: tuple[TensorEntry, ...] | None = None

    def to_bytes(self) -> bytes:
        """Canonical JSON, ready to sign."""
        return canonical.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Manifest:
        """Parse and check all that can be checked without other documents.

        Raises IntegrityError: `too_large`, `too_deep`, `bad_json`, `bad_document`.
        """
        manifest = canonical.decode(data, cls, limit=MAX_BYTES, what="manifest")
        try:
            check_paths([file.path for file in manifest.files])
        except InvalidRequest as refused:
            raise _unsound(refused.message) from None
        objects = object_names(manifest.files)
        if len(set(objects)) != len(objects):
            raise _unsound("an object is named twice")
        if any(not file.digest.startswith(manifest.digest_alg + ":") for file in manifest.files):
            raise _unsound("a digest of another algorithm")
        return manifest

    def file(self, path: str) -> FileEntry | None:
        """The entry of `path`, or None."""
        return next((entry for entry in self.files if entry.path == path), None)

    @property
    def size(self) -> int:
        """Plaintext bytes of all files."""
        return sum(file.size for file in self.files)


def check_paths(paths: list[str]) -> None:
    """Check the paths of one version (docs/format.md, section 2).

    Each: UTF-8, NFC, relative, `/` between parts, no empty part, no `.` or `..`, no control
    character (it would reach terminals), no backslash, at most 1,024 bytes. Together: 1 to
    10,000, sorted by code point, and no two equal once case is folded, nor one a folder of
    another. Raises InvalidRequest (`bad_path`).
    """
    if not 1 <= len(paths) <= MAX_FILES:
        raise InvalidRequest(
            "too_many_files" if paths else "no_files",
            f"{len(paths)} files; a version holds 1 to {MAX_FILES:,}",
            "pack many small files into an archive before pushing" if paths else "add a file",
        )
    for path in paths:
        _check_path(path)
    if paths != sorted(paths):
        raise InvalidRequest("bad_path", "the paths aren't in order")
    folded = {path.casefold() for path in paths}
    if len(folded) != len(paths):
        raise InvalidRequest(
            "bad_path",
            "two names differ in nothing but case",
            "rename one: some systems merge them",
        )
    # With the lowest character for "/", what a folder holds sorts right behind its own name.
    in_order = sorted(path.replace("/", "\0") for path in folded)
    for path, following in pairwise(in_order):
        if following.startswith(path + "\0"):
            name = path.replace("\0", "/")[:120]
            raise InvalidRequest("bad_path", f"a file and a folder have one name: {name!r}")


def _unsound(why: str) -> IntegrityError:
    return IntegrityError(
        "bad_document", f"manifest: {why}", "don't use this version: ask who runs the vault"
    )


def _check_path(path: str) -> None:
    def refuse(why: str) -> InvalidRequest:
        return InvalidRequest("bad_path", f"{path[:120]!r}: {why}", "rename the file")

    try:
        size = len(path.encode("utf-8"))
    except UnicodeEncodeError:
        raise refuse("the name isn't UTF-8") from None
    if size > MAX_PATH_BYTES:
        raise refuse(f"{size} bytes; the limit is {MAX_PATH_BYTES}")
    if _FORBIDDEN.search(path):
        raise refuse("a control character or a backslash")
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise refuse("an empty part, '.' or '..', or not relative")
    if not unicodedata.is_normalized("NFC", path):
        raise refuse("not in Unicode's NFC form")
