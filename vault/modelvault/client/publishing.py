"""The end of a push: what the broker is told, what it made of that, and giving up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec

from modelvault.artifact import trust as trusting
from modelvault.artifact.trust import Seen, Verified
from modelvault.client.comparing import Kept
from modelvault.client.context import Context
from modelvault.client.upload import Sent
from modelvault.errors import IntegrityError, InvalidRequest, ModelVaultError
from modelvault.manifest import MAX_LABEL, Hints, Provenance
from modelvault.ports.objects import UploadStore
from modelvault.reference import Reference
from modelvault.upload import Draft, Published, Upload
from modelvault.weights.sniff import is_pickle


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """What lies under a path: files and plaintext bytes, formats and pickles found, and the names
    that a push leaves out because they are hidden.

    `unsound` says of files of weights what engines won't take of them. Only `inspect` looks: a
    push takes them as they are.
    """

    paths: tuple[str, ...]
    size: int
    formats: tuple[str, ...]
    pickles: tuple[str, ...]
    skipped: tuple[str, ...]
    unsound: tuple[str, ...] = ()


class Pushed(msgspec.Struct, frozen=True, kw_only=True):
    """A version that stands: what was found, what it is called, and its manifest's digest.

    `unchanged` are the files that were not uploaded, `unchanged_size` bytes together."""

    tenant: str
    model: str
    version: int
    manifest: str
    tag: str | None
    found: Inspection
    unchanged: tuple[str, ...]
    unchanged_size: int
    published: Published


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """The pusher's word about a version."""

    labels: Mapping[str, str] = {}
    provenance: Provenance = Provenance()
    public_metadata: bool = False


def check_pushable(reference: Reference) -> None:
    """Raises InvalidRequest (`bad_reference`) where it names a version."""
    if reference.version is not None or reference.digest is not None:
        raise InvalidRequest(
            "bad_reference",
            f"{reference} names a version; the vault numbers versions itself",
            f"push to {reference.name} or {reference.name}:<tag>",
        )


def check_claims(claims: Claims) -> None:
    """Refuse before anything is uploaded what no manifest has room for.

    Raises InvalidRequest: `bad_labels`, `bad_provenance`.
    """
    for name, value in claims.labels.items():
        if not (name and _is_label(name) and _is_label(value)):
            raise InvalidRequest(
                "bad_labels",
                f"the label {str(name)[:80]!r} is {value!r:.80} ({type(value).__name__})",
                f"names and values are texts of at most {MAX_LABEL} characters: "
                'labels={"step": str(1000)}',
            )
    try:
        msgspec.convert(msgspec.to_builtins(claims.provenance), Provenance)
    except (msgspec.ValidationError, TypeError):
        raise InvalidRequest(
            "bad_provenance",
            "the provenance holds what is no text, a text that is too long or a bad digest",
            f"give texts of at most {MAX_LABEL} characters, and vault.based_on(...) for a base",
        ) from None


def inspection(
    kinds: Mapping[str, str],
    sizes: Mapping[str, int],
    skipped: tuple[str, ...] = (),
    unsound: tuple[str, ...] = (),
) -> Inspection:
    """What was found; `kinds` are the formats and `sizes` the bytes, by path."""
    return Inspection(
        paths=tuple(kinds),
        size=sum(sizes[path] for path in kinds),
        formats=tuple(sorted(set(kinds.values()))),
        pickles=tuple(path for path, kind in kinds.items() if is_pickle(kind)),
        skipped=skipped,
        unsound=unsound,
    )


def _is_label(text: object) -> bool:
    if not isinstance(text, str) or len(text) > MAX_LABEL:
        return False
    return not any("\ud800" <= letter <= "\udfff" for letter in text)  # it isn't Unicode then


def draft(done: Sequence[Sent | Kept], found: Inspection, claims: Claims) -> Draft:
    """What the broker is told: `done` are all files of the version, by path."""
    tensors = tuple(tensor for each in done for tensor in each.tensors)
    return Draft(
        files=tuple(each.file for each in done if isinstance(each, Sent)),
        unchanged=tuple(each.file for each in done if isinstance(each, Kept)),
        hints=Hints(formats=found.formats, pickles=found.pickles),
        labels=dict(claims.labels),
        provenance=claims.provenance,
        tensors=tensors if claims.public_metadata else None,
    )


def verify(
    context: Context,
    reference: Reference,
    published: Published,
    upload: Upload,
    sent: Draft,
    kept: Sequence[Kept],
    seen: Seen,
) -> Verified:
    """The published version is signed, new, and holds just what was put, and what the broker had
    said to be unchanged."""
    named = Reference(reference.tenant, reference.model, version=published.version)
    verified = trusting.verify(published.signed, named, context.trust, seen)
    made = {
        (file.artifact, file.path, file.size, file.object, file.leaves, file.digest)
        for file in verified.manifest.files
    }
    put = {
        (upload.artifact, file.path, file.size, file.object, file.leaves, file.digest)
        for file in sent.files
    } | {
        (file.artifact, file.path, file.size, file.object, file.leaves, file.digest)
        for file in (each.entry for each in kept)
    }
    if made != put or verified.digest != published.manifest:
        raise IntegrityError(
            "not_what_was_pushed",
            f"{named} was published with other files than were pushed",
            "don't use this version: ask who runs the vault",
        )
    context.pins.remember(verified.seen)
    return verified


def give_up(
    context: Context, store: UploadStore, upload: str, key_hash: str, sent: Sequence[Sent]
) -> None:
    """Free the upload, then delete what was put.

    A commit that didn't answer may have been done: only when the broker has said that none can be
    any more does anything go. Without that word, what is left is gc's once the upload expires.
    """
    with suppress(ModelVaultError):
        context.broker.abandon(context.credentials.caller(key_hash), upload)
        for each in sent:
            store.delete(each.file.object)
            store.delete(each.file.leaves)
