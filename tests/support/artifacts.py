"""Encrypted files in a MemoryStore."""

from __future__ import annotations

from modelvault.artifact import writer
from modelvault.artifact.reader import FileReader
from modelvault.crypto import derive
from modelvault.crypto.floe import Geometry
from modelvault.crypto.secret import Secret
from modelvault.manifest import FileEntry
from support.documents import ARTIFACT
from support.memory_store import MemoryStore

DEK = bytes(range(32, 64))
CONTENT_KEY = Secret(bytearray(range(64, 96)))


def file_key(path: str, artifact: str = ARTIFACT) -> Secret:
    return derive.file_key(Secret.copy_of(DEK), artifact, path)


def put_file(
    store: MemoryStore,
    plain: bytes,
    path: str = "model.bin",
    number: int = 0,
    segment_length: int = 64,
    alg: str = "blake3",
    progress: list[int] | None = None,
) -> FileEntry:
    """Encrypt `plain` into two objects of `store`."""

    def read_into(offset: int, buffer: memoryview) -> None:
        buffer[:] = plain[offset : offset + len(buffer)]

    names = f"objects/{2 * number:032x}", f"objects/{2 * number + 1:032x}"
    done: list[int] = [] if progress is None else progress
    encrypted = writer.encrypt_file(
        read_into,
        len(plain),
        file_key(path),
        CONTENT_KEY,
        derive.file_aad(ARTIFACT, path),
        Geometry(segment_length),
        alg,
        store,
        names,
        done.append,
    )
    return FileEntry(path, len(plain), segment_length, ARTIFACT, *names, encrypted.digest)


def reader(
    store: MemoryStore, entry: FileEntry, alg: str = "blake3", threads: int = 1
) -> FileReader:
    return FileReader(store, entry, file_key(entry.path, entry.artifact), alg, threads)


def read(source: FileReader, offset: int = 0, length: int | None = None) -> bytes:
    out = bytearray(source.size - offset if length is None else length)
    source.read_into(offset, memoryview(out))
    return bytes(out)
