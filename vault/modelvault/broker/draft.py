"""Whether a draft keeps to what was declared. Values in; nothing or InvalidRequest out."""

from __future__ import annotations

from modelvault.broker.terms import Terms
from modelvault.canonical import MAX_INTEGER
from modelvault.catalog import UploadRow
from modelvault.crypto.floe import MAX_SEGMENTS, Geometry
from modelvault.errors import InvalidRequest
from modelvault.manifest import DigestAlgorithm, check_paths
from modelvault.upload import DeclaredFile, Draft

_AGAIN = "push again; if it happens twice, use the client of this vault's version"


def check_declared(files: tuple[DeclaredFile, ...], geometry: Geometry, terms: Terms) -> None:
    """The paths and sizes of a push that is about to begin.

    Raises InvalidRequest: `bad_path`, `no_files`, `too_many_files`, `too_large`.
    """
    if len(files) > terms.max_files:
        raise InvalidRequest(
            "too_many_files",
            f"{len(files)} files; this vault takes {terms.max_files:,} in one version",
            "pack many small files into an archive before pushing",
        )
    check_paths([file.path for file in files])
    for file in files:
        if geometry.segments(file.size) > MAX_SEGMENTS:
            raise InvalidRequest("too_large", f"{file.path}: {file.size} bytes are too many")
    if sum(file.size for file in files) > MAX_INTEGER:
        raise InvalidRequest("too_large", "the files together are too large")


def check_draft(draft: Draft, upload: UploadRow, alg: DigestAlgorithm, terms: Terms) -> None:
    """The draft holds the declared files, no more and no less, and nothing oversized.

    Raises InvalidRequest: `not_as_declared`, `objects_shared`, `wrong_digest_alg`,
    `too_many_labels`, `bad_hints`, `bad_tensors`, `bad_provenance`.
    """
    _check_files(draft, upload)
    names = [name for file in draft.files for name in (file.object, file.leaves)]
    if len(set(names)) != len(names):
        raise InvalidRequest("objects_shared", "the draft names one object twice", _AGAIN)
    for file in draft.files:
        if not file.digest.startswith(alg + ":"):
            raise InvalidRequest(
                "wrong_digest_alg", f"{file.path}: this vault hashes with {alg}", _AGAIN
            )
    if len(draft.labels) > terms.max_labels or "" in draft.labels:
        raise InvalidRequest(
            "too_many_labels",
            f"{len(draft.labels)} labels; at most {terms.max_labels}, none without a name",
            "leave some out",
        )
    _check_claims(draft, set(upload.paths), terms)


def _check_files(draft: Draft, upload: UploadRow) -> None:
    declared = dict(zip(upload.paths, upload.sizes, strict=True))
    paths = [*(file.path for file in draft.files), *(file.path for file in draft.unchanged)]
    sent = set(paths)
    for path in declared:
        if path not in sent:
            raise _differs(path, "was declared and isn't in the draft")
    for path in paths:
        if path not in declared:
            raise _differs(path, "wasn't declared")
    for file in draft.files:
        if file.size != declared[file.path]:
            raise _differs(
                file.path, f"was declared with {declared[file.path]} bytes, not {file.size}"
            )
    for one in ([file.path for file in draft.files], [file.path for file in draft.unchanged]):
        if len(paths) != len(declared) or one != sorted(one):
            raise InvalidRequest(
                "not_as_declared", "the draft's files stand twice or in another order", _AGAIN
            )


def _check_claims(draft: Draft, paths: set[str], terms: Terms) -> None:
    if draft.provenance.copied_from is not None:
        raise InvalidRequest(
            "bad_provenance", "only an import says what a version is a copy of", "push without it"
        )
    hints = draft.hints
    if len(hints.formats) > terms.max_labels or len(set(hints.pickles)) != len(hints.pickles):
        raise InvalidRequest("bad_hints", "too many formats, or a pickle twice", _AGAIN)
    if not paths.issuperset(hints.pickles):
        raise InvalidRequest("bad_hints", "the hints name a file that isn't in the version", _AGAIN)
    tensors = draft.tensors or ()
    if len(tensors) > terms.max_tensors or any(one.file not in paths for one in tensors):
        raise InvalidRequest(
            "bad_tensors",
            f"more than {terms.max_tensors:,} tensors, or of a file that isn't in the version",
            "push without public metadata",
        )


def _differs(path: str, how: str) -> InvalidRequest:
    return InvalidRequest("not_as_declared", f"{path[:120]!r} {how}", _AGAIN)
