"""Manifests and the rules for paths."""

from __future__ import annotations

import json

import pytest

from modelvault.errors import IntegrityError, InvalidRequest
from modelvault.manifest import MAX_BYTES, MAX_FILES, Manifest, TensorEntry, check_paths
from support.documents import ARTIFACT, entry, manifest


def changed(**changes: object) -> bytes:
    return json.dumps(json.loads(manifest().to_bytes()) | changes).encode()


def changed_file(**changes: object) -> bytes:
    document = json.loads(manifest().to_bytes())
    document["files"][0] |= changes
    return json.dumps(document).encode()


def test_round_trip() -> None:
    made = manifest(
        files=(entry("a/b", 0), entry("c", 1)),
        labels={"team": "nlp"},
        tensors=(TensorEntry("c", "w", "F32", (2, 3), 24),),
    )
    assert Manifest.from_bytes(made.to_bytes()) == made
    assert made.file("c") == entry("c", 1)
    assert made.file("d") is None
    assert made.size == 200


@pytest.mark.parametrize(
    "data",
    [
        changed(schema=2),
        changed(vault=None),
        changed(vault="0F" * 16),
        changed(vault="0f" * 16 + "\n"),
        changed(tenant="../x"),
        changed(model="m\n"),
        changed(model=""),
        changed(version=0),
        changed(version=True),
        changed(version="1"),
        changed(version=2**53 - 1 + 1.5),
        changed(created_at="2026-01-02T03:04:05Z"),
        changed(created_at="2026-01-02T03:04:05.678Z\n"),
        changed(created_at="\u0662026-01-02T03:04:05.678Z"),
        changed(previous="sha256:00"),
        changed(previous="blake3:" + "00" * 32),
        changed(digest_alg="md5"),
        changed(digest_alg="sha256"),
        changed(files=[]),
        changed(files=None),
        changed(hints={"formats": "safetensors"}),
        changed(labels={"a": 1}),
        changed(labels={"a": "x" * 257}),
        changed(provenance={"other": "x"}),
        changed(unknown=1),
        changed(files=[json.loads(manifest().to_bytes())["files"][0]] * 2),
        changed_file(path="../x"),
        changed_file(size=-1),
        changed_file(size=1.0),
        changed_file(segment_length=63),
        changed_file(segment_length=(1 << 26) + 1),
        changed_file(artifact=ARTIFACT[1:]),
        changed_file(object="objects/../../etc/passwd"),
        changed_file(object="objects/" + "0" * 32 + "\n"),
        changed_file(object="keys/" + "0" * 32),
        changed_file(leaves="objects/" + "0" * 32),
        changed_file(digest="sha256:" + "00" * 32),
        changed_file(digest="blake3:" + "00" * 31),
        changed_file(key="00"),
        b"[]",
        b"null",
        b"{}",
        b"",
        b"\xff",
        b"[" * 10_000,
        b'{"schema":1,"schema":1}',
        b" " * (MAX_BYTES + 1),
    ],
)
def test_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError) as error:
        Manifest.from_bytes(data)
    assert error.value.code in {"bad_document", "bad_json", "too_deep", "too_large"}
    assert error.value.message.startswith("manifest: ")
    assert error.value.message.isprintable()


@pytest.mark.parametrize(
    "paths",
    [
        ["a"],
        ["a b", "a.b", "a/b"],
        ["a", "ab", "ab.c/d"],
        ["Größe/模型.safetensors"],
        ["..."],
        ["a..b", "b/.hidden"],
        ["x" * 1024],
        ["/".join(["x"] * 512)],
        ["model-00001-of-00002", "model-00002-of-00002"],
    ],
)
def test_good_paths(paths: list[str]) -> None:
    check_paths(sorted(paths))


@pytest.mark.parametrize(
    ("paths", "code"),
    [
        ([], "no_files"),
        ([str(n) for n in range(MAX_FILES + 1)], "too_many_files"),
        ([""], "bad_path"),
        (["/a"], "bad_path"),
        (["a/"], "bad_path"),
        (["a//b"], "bad_path"),
        (["."], "bad_path"),
        (["./a"], "bad_path"),
        (["a/."], "bad_path"),
        ([".."], "bad_path"),
        (["a/../b"], "bad_path"),
        (["a\0b"], "bad_path"),
        (["a\nb"], "bad_path"),
        (["a\x1b[31m"], "bad_path"),
        (["a\x7f"], "bad_path"),
        (["a\x9b"], "bad_path"),
        (["a\\b"], "bad_path"),
        (["x" * 1025], "bad_path"),
        (["é" * 513], "bad_path"),
        (["e\u0301"], "bad_path"),
        (["\udc80"], "bad_path"),
        (["b", "a"], "bad_path"),
        (["a", "a"], "bad_path"),
        (["A", "a"], "bad_path"),
        (["STRASSE", "straße"], "bad_path"),
        (["a", "a/b"], "bad_path"),
        (["A/b", "a"], "bad_path"),
        (["a", "a-b", "a/b/c"], "bad_path"),
    ],
)
def test_bad_paths(paths: list[str], code: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        check_paths(paths)
    assert error.value.code == code
    assert error.value.message.isprintable()
