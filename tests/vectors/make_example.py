"""Make the worked example of docs/format.md, without a line of modelvault.

    PYTHONPATH=tests python -m vectors.make_example

puts it between the two markers in that page. Nothing is random; a test sees to it that the page
holds what this makes and that modelvault reads it.
"""

from __future__ import annotations

import base64
import hashlib
import textwrap
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from oracle import second_reader, second_writer
from oracle.second_writer import canonical

PAGE = Path(__file__).parents[2] / "docs" / "format.md"
BEGIN = "<!-- example: made by tests/vectors/make_example.py -->\n"
END = "<!-- end of example -->\n"

VAULT, ARTIFACT, PATH = "0f" * 16, "a1" * 16, "weights.bin"
DEK = bytes(range(32))
PLAIN = b"forty-eight bytes that stand for a model's parts"
SEGMENT_LENGTH = 64
IV = bytes(range(0x20, 0x40))
NONCES = (bytes(range(0x40, 0x4C)), bytes(range(0x50, 0x5C)))
SIGNING_SEED = bytes(range(0x60, 0x80))
OBJECT, LEAVES = "objects/" + "01" * 16, "objects/" + "02" * 16
AAD = b"modelvault/file/v1\0" + ARTIFACT.encode() + b"\0" + PATH.encode()
FILE_KEY = second_reader.file_key(DEK, ARTIFACT, PATH)
FLOE = second_writer.Floe(FILE_KEY, AAD, SEGMENT_LENGTH, IV)
PARTS = FLOE.parts(PLAIN, lambda position: NONCES[position])
LEAF_LIST, DIGEST = second_writer.leaf_list("blake3", PARTS)
LEAF_LIST_SHA256, DIGEST_SHA256 = second_writer.leaf_list("sha256", PARTS)

MANIFEST = {
    "schema": 1,
    "vault": VAULT,
    "tenant": "default",
    "model": "minilm",
    "version": 1,
    "artifact": ARTIFACT,
    "created_at": "2026-01-02T03:04:05.678Z",
    "created_by": "local:alice",
    "previous": None,
    "digest_alg": "blake3",
    "files": [
        {
            "path": PATH,
            "size": len(PLAIN),
            "segment_length": SEGMENT_LENGTH,
            "artifact": ARTIFACT,
            "object": OBJECT,
            "leaves": LEAVES,
            "digest": DIGEST,
        }
    ],
    "hints": {"formats": ["other"], "pickles": []},
    "labels": {},
    "provenance": {},
    "tensors": None,
}
SIGNER = Ed25519PrivateKey.from_private_bytes(SIGNING_SEED)
PUBLIC = SIGNER.public_key().public_bytes_raw()
ENVELOPE = second_writer.signed(second_reader.MANIFEST, MANIFEST, SIGNER)

RECIPIENT, NONCE = bytes(range(0x80, 0xA0)), bytes(range(0xA0, 0xB0))


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


INFO = {
    "v": 1,
    "kind": "lease",
    "vault": VAULT,
    "lease": "1e" * 16,
    "tenant": "default",
    "model": "minilm",
    "version": 1,
    "manifest": sha256(canonical(MANIFEST)),
    "purpose": "inference",
    "paths": sha256(canonical([PATH])),
    "suite": "x25519",
    "nonce": NONCE.hex(),
    "recipient": sha256(RECIPIENT),
}


def context(*fields: str) -> bytes:
    values = {"vault": VAULT, "tenant": "default", "model": "minilm", "artifact": ARTIFACT}
    return canonical({"v": 1} | {field: values[field] for field in fields})


KEK_NAME = (
    "mv-"
    + (
        base64.b32encode(hashlib.sha256(context("vault", "tenant", "model")).digest())
        .decode()
        .lower()[:40]
    )
)
KEY_CONTEXT = hashlib.sha256(context("vault", "tenant", "model", "artifact")).digest()

EXAMPLE: list[tuple[str, list[tuple[str, bytes | str]]]] = [
    (
        "Keys",
        [
            ("DEK", DEK),
            ("artifact id", ARTIFACT),
            ("path", PATH),
            ("FileKey", FILE_KEY),
            ("KEK's name", KEK_NAME),
            ("key context", KEY_CONTEXT),
        ],
    ),
    (
        "File body, segment length 64",
        [
            ("plaintext, 48 bytes", PLAIN),
            ("FLOE aad", AAD),
            ("IV", IV),
            ("header", PARTS[0]),
            ("nonce of segment 0", NONCES[0]),
            ("segment 0", PARTS[1]),
            ("nonce of segment 1", NONCES[1]),
            ("segment 1, final", PARTS[2]),
        ],
    ),
    (
        "Leaf lists",
        [
            ("leaf list, blake3", LEAF_LIST),
            ("digest", DIGEST),
            ("leaf list, sha256", LEAF_LIST_SHA256),
            ("digest", DIGEST_SHA256),
        ],
    ),
    (
        "Manifest, signed",
        [
            ("payload", canonical(MANIFEST).decode()),
            ("digest", sha256(canonical(MANIFEST))),
            ("Ed25519 seed", SIGNING_SEED),
            ("public key", PUBLIC),
            ("key id", second_writer.keyid(PUBLIC)),
            ("signature", base64.b64decode(ENVELOPE["signatures"][0]["sig"])),
            ("envelope", canonical(ENVELOPE).decode()),
        ],
    ),
    (
        "HPKE info of a lease",
        [("recipient's public key", RECIPIENT), ("info", canonical(INFO).decode())],
    ),
]


def render() -> str:
    """The example as Markdown: bytes in hex, text as it is; both wrapped for reading only."""
    sections = []
    for title, lines in EXAMPLE:
        text = "\n".join(line for name, value in lines for line in shown(name, value))
        sections.append(f"**{title}**\n\n```text\n{text}\n```\n")
    return "\n".join(sections)


def shown(name: str, value: bytes | str) -> list[str]:
    text = value.hex() if isinstance(value, bytes) else value
    return [name, *(f"  {line}" for line in textwrap.wrap(text, 96, break_on_hyphens=False))]


def between(page: str) -> str:
    """What the page holds between the markers."""
    return page.split(BEGIN)[1].split(END, maxsplit=1)[0]


if __name__ == "__main__":
    old = PAGE.read_text()
    PAGE.write_text(old.replace(BEGIN + between(old), BEGIN + render()))
