"""Model references, as anybody may type them."""

from __future__ import annotations

from fuzz.harness import main, only_our_errors
from modelvault.reference import Reference

SEEDS = [
    b"minilm",
    b"acme/MiniLM-2.1_x:v1.0",
    b"minilm@7",
    b"minilm@sha256:" + b"0a" * 32,
    b"default/m:prod",
    b"../../etc/passwd",
    b"m:prod\n",
    "größe:é".encode(),
    b"m@\xd9\xa7",
]


def one_input(data: bytes) -> None:
    """What parses is written again as the same reference, and names no path."""
    with only_our_errors():
        parsed = Reference.parse(data.decode("utf-8", "surrogateescape"))
        assert Reference.parse(str(parsed)) == parsed
        assert ".." not in parsed.name.split("/")
        assert [parsed.tag, parsed.version, parsed.digest].count(None) >= 2


if __name__ == "__main__":
    main(one_input, SEEDS)
