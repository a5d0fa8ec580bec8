"""Versions in memory for the loader: real ciphertext, or a reader that does as a test says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modelvault.access import Obligations
from modelvault.artifact.meter import Meter
from modelvault.artifact.reader import FileReader
from modelvault.artifact.writer import encrypt_file
from modelvault.crypto import derive
from modelvault.crypto.floe import Geometry
from modelvault.crypto.secret import Secret
from modelvault.errors import AccessDenied, IntegrityError
from modelvault.loader.metrics import Stats
from modelvault.loader.model import Model
from modelvault.manifest import FileEntry, Hints, Manifest, Provenance
from support.memory_store import MemoryStore

SEGMENT = 1024
ARTIFACT = "a" * 32


class PlainReader:
    """The loader's Reader over bytes. Counts; fails with `error`, when set, after filling half."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reads: list[tuple[int, int]] = []
        self.error: BaseException | None = None
        self.before: Callable[[], None] | None = None
        self.wiped = False
        self._lock = threading.Lock()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        assert not self.wiped
        assert offset + len(buffer) <= len(self.data)
        with self._lock:
            self.reads.append((offset, len(buffer)))
        if self.before is not None:
            self.before()
        if self.error is not None:
            half = len(buffer) // 2
            buffer[:half] = self.data[offset : offset + half]
            raise self.error
        buffer[:] = self.data[offset : offset + len(buffer)]

    def wipe(self) -> None:
        self.wiped = True

    @property
    def bytes_read(self) -> int:
        return sum(length for _, length in self.reads)


class Lease:
    """A Guard that a test revokes."""

    def __init__(self) -> None:
        self.revoked = False

    def check(self) -> None:
        if self.revoked:
            raise AccessDenied("revoked", "the lease was revoked")


class Version:
    """A model's files in memory, and what a Model made of them saw."""

    def __init__(
        self,
        files: Mapping[str, bytes],
        *,
        segment_length: int = SEGMENT,
        pickles: Sequence[str] = (),
    ) -> None:
        self.readers = {path: PlainReader(data) for path, data in files.items()}
        self.lease = Lease()
        self.closed = 0
        self.manifest = manifest(
            tuple(
                entry(path, len(data), number, segment_length)
                for number, (path, data) in enumerate(sorted(files.items()))
            ),
            pickles,
        )

    def model(self, *paths: str, obligations: Obligations | None = None, **more: Any) -> Model:
        return Model(
            self.manifest,
            paths or tuple(file.path for file in self.manifest.files),
            lambda entry: self.readers[entry.path],
            obligations or Obligations(),
            self.lease,
            self._on_close,
            **({"stats": no_stats} | more),
        )

    def _on_close(self) -> None:
        self.closed += 1

    @property
    def bytes_read(self) -> int:
        return sum(reader.bytes_read for reader in self.readers.values())


class Sealed(Version):
    """The same, encrypted in a MemoryStore and read by the real reader."""

    def __init__(self, files: Mapping[str, bytes], *, segment_length: int = SEGMENT) -> None:
        super().__init__(files, segment_length=segment_length)
        self.store = MemoryStore()
        geometry = Geometry(segment_length)
        self.keys = {path: Secret.random(32) for path in files}
        entries = []
        for file in self.manifest.files:
            data = files[file.path]

            def read(offset: int, buffer: memoryview, data: bytes = data) -> None:
                buffer[:] = data[offset : offset + len(buffer)]

            encrypted = encrypt_file(
                read, len(data), self.keys[file.path], Secret.random(32),
                derive.file_aad(ARTIFACT, file.path),
                geometry, "blake3", self.store, (file.object, file.leaves), lambda _done: None,
            )  # fmt: skip
            entries.append(
                FileEntry(file.path, file.size, segment_length, ARTIFACT, file.object,
                          file.leaves, encrypted.digest)
            )  # fmt: skip
        self.manifest = manifest(tuple(entries), ())
        self.readers = {
            entry.path: FileReader(self.store, entry, self.keys[entry.path], "blake3", 2)
            for entry in entries
        }

    def flip(self, path: str, position: int) -> None:
        """Alter one bit of a file's ciphertext."""
        entry = self.manifest.file(path)
        assert entry is not None
        altered = bytearray(self.store.objects[entry.object])
        altered[position] ^= 1
        self.store.objects[entry.object] = bytes(altered)


def no_stats() -> Stats:
    """Of a model whose lease nobody keeps."""
    return Stats(lease_seconds_left=0, expires_at=0, dead_at=0, costs=Meter().costs())


def entry(path: str, size: int, number: int, segment_length: int = SEGMENT) -> FileEntry:
    return FileEntry(
        path=path,
        size=size,
        segment_length=segment_length,
        artifact=ARTIFACT,
        object=f"objects/{2 * number:032x}",
        leaves=f"objects/{2 * number + 1:032x}",
        digest="blake3:" + "0" * 64,
    )


def manifest(files: tuple[FileEntry, ...], pickles: Sequence[str]) -> Manifest:
    return Manifest(
        vault="1" * 32,
        tenant="default",
        model="m",
        version=7,
        artifact=ARTIFACT,
        created_at="2026-01-01T00:00:00.000Z",
        created_by="local:me",
        previous=None,
        digest_alg="blake3",
        files=files,
        hints=Hints(pickles=tuple(pickles)),
        labels={"team": "nlp"},
        provenance=Provenance(),
    )


BROKEN = IntegrityError("bad_tag", "a segment was altered")
