"""Which files of a push are unchanged: read them, make their content tags, ask the broker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from modelvault.artifact.buffers import Buffers
from modelvault.artifact.content import Tagger
from modelvault.artifact.parallel import run_blocks
from modelvault.client.content import Content
from modelvault.client.context import Context
from modelvault.client.journal import Journal
from modelvault.client.upload import describe
from modelvault.crypto.floe import Geometry
from modelvault.crypto.secret import Secret
from modelvault.errors import IntegrityError
from modelvault.manifest import FileEntry, TensorEntry
from modelvault.upload import CompareAsk, TaggedFile, Upload

_BLOCK = 8  # segments that a thread takes at a time


class Same(msgspec.Struct, frozen=True):
    """A file that needs no upload: its tag, and the earlier entry that the version will name."""

    found: Content
    file: TaggedFile
    entry: FileEntry


class Kept(msgspec.Struct, frozen=True):
    """An unchanged file as the draft tells of it, and what it was found to be."""

    file: TaggedFile
    entry: FileEntry
    format: str
    tensors: tuple[TensorEntry, ...]


def candidates(
    upload: Upload, files: Sequence[Content], journal: Journal | None
) -> tuple[Content, ...]:
    """The files that are worth comparing: all that the broker names, but those that an earlier run
    of this push found changed and began to put."""
    named = set(upload.candidates)
    return tuple(
        found
        for found in files
        if found.path in named and not (journal is not None and journal.begun(found))
    )


def compare(
    context: Context,
    key_hash: str,
    upload: Upload,
    keys: Mapping[str, Secret],
    files: Sequence[Content],
    progress: Callable[[int], None],
    journal: Journal | None,
) -> tuple[Same, ...]:
    """Read the files, whole, and tell which are unchanged. `keys` are the content keys by path.

    `progress` counts a file once when it was read, and once more when it needs no upload. Raises
    what source and broker raise, and IntegrityError (`not_what_was_asked`).
    """
    if not files:
        return ()
    geometry = Geometry(upload.segment_length)
    tagged: dict[str, tuple[Content, TaggedFile]] = {}
    for found in files:
        tag = None if journal is None else journal.tagged(found)
        if tag is None:
            tag = _read(found, upload.digest_alg, keys[found.path], geometry, context, progress)
            if journal is not None:
                journal.tag(found, tag)
        else:
            progress(found.size)
        tagged[found.path] = (found, TaggedFile(path=found.path, content=tag))
    ask = CompareAsk(files=tuple(file for _, file in tagged.values()))
    answer = context.broker.compare(context.credentials.caller(key_hash), upload.id, ask)
    same = []
    for entry in answer.files:
        asked = tagged.pop(entry.path, None)
        if asked is None or entry.size != asked[0].size:
            raise IntegrityError(
                "not_what_was_asked",
                "the broker took a file for unchanged that it wasn't asked about",
                "don't trust this broker",
            )
        progress(entry.size)
        same.append(Same(*asked, entry))
    return tuple(same)


def keep(same: Sequence[Same], public_metadata: bool) -> tuple[Kept, ...]:
    """The unchanged files, by path, once the push has nothing left to do but to commit.

    Raises Conflict (`file_changed`) when one is no longer as it was when it was compared.
    """
    kept = []
    for each in sorted(same, key=lambda one: one.file.path):
        with each.found.open() as source:
            kind, tensors = describe(each.found, source, public_metadata)
            source.check()
        kept.append(Kept(each.file, each.entry, kind, tensors))
    return tuple(kept)


def _read(
    found: Content,
    alg: str,
    key: Secret,
    geometry: Geometry,
    context: Context,
    progress: Callable[[int], None],
) -> bytes:
    """The file's content tag, its blocks read and hashed by several threads."""
    tagger = Tagger(alg, key, geometry, found.size)
    buffers = Buffers(min(found.size, geometry.payload))
    with found.open() as source:

        def work(start: int, stop: int) -> None:
            for position in range(start, stop):
                at = position * geometry.payload
                with buffers.one(min(geometry.payload, found.size - at)) as plain:
                    source.read_into(at, plain)
                    tagger.block(position, plain)
                    progress(len(plain))

        try:
            run_blocks(work, geometry.segments(found.size), _BLOCK, context.threads)
        finally:
            buffers.wipe()
        source.check()
    return tagger.tag()
