"""Whole versions, written by us and read by the second reader, and the other way round."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import msgspec
import pytest

from modelvault import canonical
from modelvault.artifact.trust import Seen, verify
from modelvault.manifest import Manifest
from modelvault.record import SignedVersion, TrustFile
from modelvault.reference import Reference
from oracle import second_reader, second_writer
from oracle.second_reader import Refused
from support.artifacts import DEK, put_file, read, reader
from support.documents import (
    ARTIFACT,
    VAULT,
    Keys,
    manifest,
    model_record,
    signed_version,
    tag_record,
)
from support.memory_store import MemoryStore
from vectors.make_floe import seed

KEYS = Keys()
PLAIN = {
    "config.json": b'{"hidden_size":384}',
    "empty.txt": b"",
    "weights/größe.bin": bytes(n * 11 % 256 for n in range(5000)),
}
ALGORITHMS = ("blake3", "sha256")


def key_of(entry: dict) -> bytes:
    return second_reader.file_key(DEK, entry["artifact"], entry["path"])


class Version:
    """A version on disk: objects, trust file and signed documents as JSON."""

    def __init__(self, folder: Path, objects: dict[str, bytes], signed: dict) -> None:
        self.folder, self.trust, self.signed = folder, folder / "trust.json", signed
        (folder / "objects").mkdir()
        for name, data in objects.items():
            (folder / name).write_bytes(data)
        self.trust.write_bytes(KEYS.trust().to_bytes())

    def read(self, name: tuple[str, str] = ("default", "m")) -> dict[str, bytes]:
        return second_reader.read_version(self.folder, self.trust, self.signed, name, key_of)


def written_by_us(folder: Path, alg: str) -> Version:
    store = MemoryStore()
    files = tuple(
        put_file(store, plain, path, number, 200, alg)
        for number, (path, plain) in enumerate(PLAIN.items())
    )
    made = manifest(files=files, digest_alg=alg, labels={"b": "ü", "a": ""})
    signed = signed_version(KEYS, made, tag=tag_record(made))
    return Version(folder, store.objects, json.loads(canonical.encode(signed)))


def written_by_the_other(alg: str) -> tuple[dict[str, bytes], dict]:
    """(objects, signed documents), without a line of modelvault."""
    objects, files = {}, []
    for number, (path, plain) in enumerate(PLAIN.items()):
        aad = b"modelvault/file/v1\0" + ARTIFACT.encode() + b"\0" + path.encode()
        key = second_reader.file_key(DEK, ARTIFACT, path)
        parts = second_writer.Floe(key, aad, 100, seed(path)).parts(
            plain, lambda position, path=path: seed(f"{path} {position}", 12)
        )
        leaves, digest = second_writer.leaf_list(alg, parts)
        names = [f"objects/{2 * number + n:032x}" for n in (0, 1)]
        objects[names[0]], objects[names[1]] = b"".join(parts), leaves
        files.append(
            {"path": path, "size": len(plain), "segment_length": 100, "artifact": ARTIFACT}
            | {"object": names[0], "leaves": names[1], "digest": digest}
        )
    common = {"schema": 1, "vault": VAULT, "tenant": "default", "model": "m"}
    made = common | {
        "version": 3, "artifact": ARTIFACT, "created_at": "2026-01-02T03:04:05.678Z",
        "created_by": "other:bob", "previous": None, "digest_alg": alg, "files": files,
        "hints": {"formats": [], "pickles": []}, "labels": {}, "provenance": {}, "tensors": None,
    }  # fmt: skip
    record = common | {
        "owner": "other:bob", "classification": "internal", "serial": 1,
        "created_at": "2026-01-02T03:04:05.678Z",
    }  # fmt: skip
    private = KEYS.private
    return objects, {
        "model": second_writer.signed(second_reader.MODEL, record, private["record"]),
        "manifest": second_writer.signed(second_reader.MANIFEST, made, private["manifest"]),
        "tag": None,
    }


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_the_second_reader_reads_what_we_write(tmp_path: Path, alg: str) -> None:
    assert written_by_us(tmp_path, alg).read() == PLAIN


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_we_read_what_the_other_writes(tmp_path: Path, alg: str) -> None:
    objects, documents = written_by_the_other(alg)
    assert Version(tmp_path, objects, documents).read() == PLAIN
    signed = canonical.convert(documents, SignedVersion, what="answer")
    trust = TrustFile.from_bytes((tmp_path / "trust.json").read_bytes())
    verified = verify(signed, Reference.parse("m@3"), trust, Seen())
    store = MemoryStore()
    store.objects = objects
    files = verified.manifest.files
    assert {file.path: read(reader(store, file, alg)) for file in files} == PLAIN


def test_both_write_the_same_manifest_bytes() -> None:
    _, documents = written_by_the_other("blake3")
    payload = canonical.convert(documents["manifest"], dict, what="it")["payload"]
    raw = msgspec.convert(payload, bytes)
    assert Manifest.from_bytes(raw).to_bytes() == raw


def test_every_flipped_byte_of_an_object_is_seen_by_both(tmp_path: Path) -> None:
    version = written_by_us(tmp_path, "blake3")
    target = tmp_path / f"objects/{0:032x}"
    good = target.read_bytes()
    entry = Manifest.from_bytes(
        msgspec.convert(version.signed["manifest"]["payload"], bytes)
    ).files[0]
    for at in range(0, len(good), 7):
        bad = good[:at] + bytes([good[at] ^ 0x80]) + good[at + 1 :]
        target.write_bytes(bad)
        with pytest.raises(Refused):
            version.read()
        store = MemoryStore()
        store.objects = {
            entry.object: bad,
            entry.leaves: (tmp_path / entry.leaves).read_bytes(),
        }
        with pytest.raises(Exception, match=entry.path):
            read(reader(store, entry))


def test_the_second_reader_refuses_other_models_and_keys(tmp_path: Path) -> None:
    version = written_by_us(tmp_path, "blake3")
    with pytest.raises(Refused):
        version.read(("default", "n"))
    version.trust.write_bytes(Keys(seed=9).trust().to_bytes())
    with pytest.raises(Refused):
        version.read()
    version.trust.write_bytes(KEYS.trust("ee" * 16).to_bytes())
    with pytest.raises(Refused):
        version.read()


def test_the_second_reader_refuses_a_record_for_a_manifest(tmp_path: Path) -> None:
    version = written_by_us(tmp_path, "blake3")
    version.signed["manifest"] = json.loads(canonical.encode(KEYS.signed(model_record())))
    with pytest.raises(Refused):
        version.read()


@pytest.mark.parametrize("name", ["second_reader", "second_writer"])
def test_it_is_short_and_knows_nothing_of_modelvault(name: str) -> None:
    text = Path(sys.modules[f"oracle.{name}"].__file__ or "").read_text()
    assert len(text.splitlines()) < 200
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    standard = set(sys.stdlib_module_names)
    assert imported - standard <= {"cryptography", "blake3", "oracle"}
    assert name == "second_writer" or "oracle" not in imported
