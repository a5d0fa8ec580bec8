"""Manifests, as a hostile store or broker would send them."""

from __future__ import annotations

from fuzz.harness import main, only_our_errors
from modelvault.manifest import Manifest, TensorEntry
from support.documents import entry, manifest

GOOD = manifest(
    files=(entry("a/b.bin", 0), entry("c.json", 1, size=0)),
    labels={"team": "nlp"},
    tensors=(TensorEntry("a/b.bin", "w", "F32", (2, 3), 24),),
)

SEEDS = [
    GOOD.to_bytes(),
    manifest().to_bytes(),
    b"{}",
    b"",
    b"[" * 100,
    b'{"schema":1,"schema":1}',
    b'{"files":[{"path":"\\ud800"}]}',
]


def one_input(data: bytes) -> None:
    """What parses is whole: written again it parses to the same."""
    with only_our_errors():
        parsed = Manifest.from_bytes(data)
        assert Manifest.from_bytes(parsed.to_bytes()) == parsed
        assert all(parsed.file(file.path) is file for file in parsed.files)


if __name__ == "__main__":
    main(one_input, SEEDS)
