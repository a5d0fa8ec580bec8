"""Encrypt the files of one opened version and put them into the store."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress

import msgspec

from modelvault.artifact.parallel import run_blocks
from modelvault.artifact.writer import encrypt_file
from modelvault.client.content import Content, Reading
from modelvault.client.journal import FileTrail, Journal
from modelvault.client.keys import PushKeys
from modelvault.crypto import derive
from modelvault.crypto.floe import Geometry
from modelvault.errors import (
    IntegrityError,
    InvalidRequest,
    ModelVaultError,
    NotFound,
)
from modelvault.manifest import MAX_TENSOR_NAME, TensorEntry
from modelvault.ports.objects import ObjectWriter, Track, UploadStore
from modelvault.upload import DraftFile, Upload
from modelvault.weights import header
from modelvault.weights.cursor import Read
from modelvault.weights.safetensors import TensorInfo

# A small file's time goes into making two objects durable, so several are under way at once; a
# large one is encrypted by many threads inside the store, so one at a time keeps memory bounded.
SMALL_BYTES = 1 << 20
SMALL_AT_ONCE = 8


class Sent(msgspec.Struct, frozen=True):
    """A file that lies in the store, and what it was found to be.

    `seeds` are what its two objects' names were derived from: with the upload's id they show, to
    another process too, that the objects are of this upload and of no other."""

    file: DraftFile
    format: str
    tensors: tuple[TensorEntry, ...]
    seeds: tuple[str, str] | None = None


class _Tracked:
    """A store that goes on with the ciphertext of one file, and puts the rest as ever."""

    def __init__(self, store: UploadStore, tracked: str, track: Track) -> None:
        self._store = store
        self._tracked = tracked
        self._track = track

    def put(self, name: str, sizes: Sequence[int], fill: Callable[[int, memoryview], None]) -> None:
        if name == self._tracked:
            self._store.put_tracked(name, sizes, fill, self._track)
        else:
            self._store.put(name, sizes, fill)


class Uploader:
    """Puts the files of one upload. The caller wipes `keys`."""

    def __init__(
        self,
        upload: Upload,
        keys: PushKeys,
        store: UploadStore,
        *,
        public_metadata: bool,
        progress: Callable[[int], None],
        journal: Journal | None = None,
    ) -> None:
        self._upload = upload
        self._keys = keys
        self._store = store
        self._public_metadata = public_metadata
        self._progress = progress
        self._journal = journal
        self._geometry = Geometry(upload.segment_length)
        self._names: list[str] = []

    def send(self, files: Sequence[Content]) -> tuple[Sent, ...]:
        """Each file, in the order given. On any failure, Ctrl-C too, nothing stays in the store;
        with a journal what is there stays for the next push.

        Raises what source and store raise: Conflict (`file_changed`), InvalidRequest
        (`unreadable`), Unavailable (a full disk, a read-only home).
        """
        small = [found for found in files if found.size <= SMALL_BYTES]
        sent: dict[str, Sent] = {}
        try:
            for found in files:
                if found.size > SMALL_BYTES:
                    sent[found.path] = self._send(found)
            sent.update(self._send_together(small))
        except BaseException:
            self.discard()
            raise
        return tuple(sent[found.path] for found in files)

    def discard(self) -> None:
        """Delete what was put so far, as far as the store lets us; `gc` takes the rest."""
        if self._journal is not None:
            return
        with suppress(ModelVaultError):
            for name in self._names:
                self._store.delete(name)

    def _send_together(self, files: Sequence[Content]) -> dict[str, Sent]:
        sent: dict[str, Sent] = {}

        def send(start: int, stop: int) -> None:
            for found in files[start:stop]:
                sent[found.path] = self._send(found)

        # Not an executor: those take no work once the main thread has ended, and a save in the
        # background may begin to put its files only then.
        run_blocks(send, len(files), 1, SMALL_AT_ONCE)
        return sent

    def _send(self, found: Content) -> Sent:
        if self._journal is None:
            seeds = (secrets.token_hex(16), secrets.token_hex(16))
            sent = self._put(found, self._named(seeds), self._store, None)
            return msgspec.structs.replace(sent, seeds=seeds)
        done = self._journal.finished(found)
        if done is not None:
            self._progress(found.size)
            return Sent(done.file, done.format, done.tensors)
        try:
            return self._go_on(found, self._journal.trail(found))
        except NotFound as lost:
            if lost.code != "no_transfer":
                raise
        return self._go_on(found, self._journal.fresh(found))

    def _go_on(self, found: Content, trail: FileTrail) -> Sent:
        """Put what is missing of a file, and write down how far that got."""
        payload = self._geometry.payload
        self._progress(sum(min(payload, found.size - at * payload) for at in trail.leaves))
        names = self._named(trail.seeds)
        sent = self._put(found, names, _Tracked(self._store, names[0], trail), trail)
        trail.finished(sent.file, sent.format, sent.tensors)
        return sent

    def _put(
        self, found: Content, names: tuple[str, str], store: ObjectWriter, trail: FileTrail | None
    ) -> Sent:
        self._names.extend(names)
        with found.open() as source:
            encrypted = encrypt_file(
                source.read_into,
                found.size,
                self._keys.files[found.path],
                self._keys.contents[found.path],
                derive.file_aad(self._upload.artifact, found.path),
                self._geometry,
                self._upload.digest_alg,
                store,
                names,
                self._progress,
                trail,
            )
            kind, tensors = describe(found, source, self._public_metadata)
            source.check()
        file = DraftFile(
            path=found.path,
            size=found.size,
            object=names[0],
            leaves=names[1],
            digest=encrypted.digest,
            content=encrypted.content,
        )
        return Sent(file, kind, tensors)

    def _named(self, seeds: tuple[str, str]) -> tuple[str, str]:
        return self._store.name(seeds[0]), self._store.name(seeds[1])


def describe(
    found: Content, source: Reading, public_metadata: bool
) -> tuple[str, tuple[TensorEntry, ...]]:
    """What a file is, and, where they are to be public, its tensors."""
    kind = source.format()
    if not public_metadata:
        return kind, ()
    try:
        tensors = header.tensors(kind, _between(source), found.size)
    except (IntegrityError, InvalidRequest) as refused:
        if not _is_unsound(refused):
            raise
        raise type(refused)(
            refused.code,
            f"{found.path}: {refused.message}",
            "its tensors can't be made public: mend the file, or push without --public-metadata",
        ) from None
    if any(len(tensor.name) > MAX_TENSOR_NAME for tensor in tensors):
        raise InvalidRequest(
            "bad_tensors",
            f"{found.path}: a tensor has a name of more than {MAX_TENSOR_NAME:,} characters",
            "it can't be made public: rename it, or push without public metadata",
        )
    return kind, tuple(
        TensorEntry(
            file=found.path,
            name=tensor.name,
            dtype=tensor.dtype,
            shape=tensor.shape,
            bytes=tensor.size,
        )
        for tensor in _stored(tensors)
    )


def _stored(tensors: Iterable[TensorInfo]) -> list[TensorInfo]:
    """Without further names of a tensor: they take no memory of their own."""
    stored: dict[object, TensorInfo] = {}
    for tensor in tensors:
        stored.setdefault((tensor.begin, tensor.end) if tensor.size else tensor.name, tensor)
    return list(stored.values())


def unsound(found: Content, source: Reading, kind: str, paths: Collection[str]) -> tuple[str, ...]:
    """What engines won't take of a file of weights, if anything; `paths` lie beside it."""
    try:
        header.check(found.path, kind, _between(source), found.size, paths)
    except (IntegrityError, InvalidRequest) as refused:
        if not _is_unsound(refused):
            raise
        named = refused.message.startswith(found.path)
        return (refused.message if named else f"{found.path}: {refused.message}",)
    return ()


def _is_unsound(error: ModelVaultError) -> bool:
    """Whether it is about what stands in a file, and not about reading it."""
    return isinstance(error, IntegrityError) or error.code == "unsupported_gguf"


def _between(source: Reading) -> Read:
    return lambda begin, end: source.read(begin, end - begin)
