"""FLOE ciphertexts, read bare and as a file of the vault."""

from __future__ import annotations

from fuzz.harness import main, only_our_errors
from modelvault.artifact.reader import FileReader
from modelvault.crypto.floe import Geometry
from modelvault.crypto.floe_reader import Reader
from modelvault.crypto.secret import Secret
from oracle.second_writer import leaf_list
from support.documents import entry
from support.memory_store import MemoryStore
from vectors.make_floe import AAD, GOOD, KEY, LENGTH, PLAIN, vectors

WHOLE = b"".join(GOOD)
LEAVES, DIGEST = leaf_list("blake3", GOOD)
_LABEL, ARTIFACT, PATH = AAD.decode().split("\0")
ENTRY = entry(PATH, size=len(PLAIN), segment_length=LENGTH, artifact=ARTIFACT, digest=DIGEST)

SEEDS = [WHOLE, WHOLE, *(bytes.fromhex(vector["ciphertext"]) for vector in vectors())]
KNOWN = {  # what was truly encrypted under this key and name
    bytes.fromhex(vector["ciphertext"]): bytes.fromhex(vector["plaintext"])
    for vector in vectors()
    if vector["error"] is None and vector["rotation_bits"] == 20
}


def one_input(data: bytes) -> None:
    """Nothing opens but what was encrypted, and then to what it was."""
    with only_our_errors():
        plain = bare(data)
        assert plain == KNOWN.get(data), "a forged ciphertext was read"
    with only_our_errors():
        plain = filed(data, LEAVES)
        assert (data, plain) == (WHOLE, PLAIN), "a forged file was read"
    with only_our_errors():
        plain = filed(WHOLE, data)
        assert (data, plain) == (LEAVES, PLAIN), "a forged leaf list was believed"


def bare(data: bytes) -> bytes:
    def source(offset: int, buffer: memoryview) -> None:
        buffer[:] = data[offset : offset + len(buffer)]

    reader = Reader(source, len(data), Secret.copy_of(KEY), AAD, Geometry(LENGTH))
    out = bytearray(reader.size)
    reader.read_into(0, memoryview(out))
    return bytes(out)


def filed(data: bytes, leaves: bytes) -> bytes:
    store = MemoryStore()
    store.objects = {ENTRY.object: data, ENTRY.leaves: leaves}
    reader = FileReader(store, ENTRY, Secret.copy_of(KEY), "blake3", 2)
    out = bytearray(reader.size)
    reader.read_into(0, memoryview(out))
    return bytes(out)


if __name__ == "__main__":
    main(one_input, SEEDS)
