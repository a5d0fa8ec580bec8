"""What a file is that isn't what its name promises, by its first bytes.

It is said by a word of ours: messages hold nothing out of a file.
"""

from __future__ import annotations

SAMPLE = 16  # bytes of a file's beginning that tell
_LFS = "a pointer of Git LFS, or other text"

# What to do about it: for some kinds, and for all others.
HINTS = {_LFS: "get the file itself (`git lfs pull`), and push that as a new version"}
HINT = "push the file that was meant as a new version, or this one under another name"

_MAGIC = (
    (b"GGUF", "a GGUF file"),
    (b"PK\x03\x04", "a zip archive, as torch's checkpoints are"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a numpy array"),
    (b"version ", _LFS),  # https://git-lfs.github.com/spec/v1
)


def kind(head: bytes) -> str:
    """`JSON`, `text`, `a zip archive`, ... of a file that begins with `head`; empty where that
    doesn't tell."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if b"\x80\2" <= head[:2] <= b"\x80\5":
        return "a pickle"
    if head[8:9] == b"{" and head[4:8] == bytes(4):
        return "a safetensors file"
    sample = head[:8]
    if not sample or not all(byte in b"\t\n\r" or 0x20 <= byte < 0x7F for byte in sample):
        return ""
    return "JSON" if sample.lstrip()[:1] in {b"{", b"["} else "text"
