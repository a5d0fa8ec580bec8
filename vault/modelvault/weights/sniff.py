"""What a file is, by its first bytes; by its name only where the bytes don't tell.

Pickles run code when they are opened, so they are looked for under any name: protocol 2 and up by
the header, older ones by their opcodes, torch's zip archives by the `data.pkl` within.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from modelvault.weights import pickles
from modelvault.weights.safetensors import LENGTH_BYTES, MAX_HEADER

SNIFF_BYTES = 4096  # of a file's beginning; fewer only where the file is shorter

_PICKLES = frozenset({"pickle", "torch-zip"})
_PICKLE_NAMES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill")
_NAMES = {
    ".json": "json", ".jsonl": "json", ".py": "python", ".txt": "text", ".md": "text",
    ".yaml": "text", ".yml": "text", ".jinja": "text",
}  # fmt: skip
_MAGIC = (
    (b"GGUF", "gguf"), (b"\x89HDF\r\n\x1a\n", "hdf5"), (b"tjgg", "ggml"), (b"lmgg", "ggml"),
)  # fmt: skip


def sniff(path: str, head: bytes) -> str:
    """The format of a file, one of `safetensors`, `pickle`, `torch-zip`, `zip`, `gguf`, `ggml`,
    `onnx`, `numpy`, `hdf5`, `tflite`, `json`, `python`, `text`, `other`.

    `head` is the file's first SNIFF_BYTES. A `zip` isn't cleared yet: ask `sniff_zip` with the
    names inside it.
    """
    found = _by_content(head)
    if found is not None:
        return found
    ending = posixpath.splitext(path.lower())[1]
    if ending == ".onnx" and head[:1] == b"\x08":  # protobuf: field 1, the IR version
        return "onnx"
    if ending in _PICKLE_NAMES and head:
        return "pickle"  # nothing harmless that we know, under a name that loaders unpickle
    return _NAMES.get(ending, "other")


def sniff_zip(names: Iterable[str]) -> str:
    """`torch-zip` when one of a zip archive's members is a pickle by name, else `zip`."""
    pickled = any(name.lower().endswith((".pkl", ".pickle")) for name in names)
    return "torch-zip" if pickled else "zip"


def is_pickle(format: str) -> bool:
    """Whether opening a file of this format may run code that is in it."""
    return format in _PICKLES


def _by_content(head: bytes) -> str | None:
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head.startswith(b"PK\x03\x04"):
        return "torch-zip" if b"data.pkl" in head else "zip"
    if head.startswith(b"\x93NUMPY"):
        return "pickle" if re.search(rb"'descr':[^,}]*O", head) else "numpy"
    if _is_pickle_stream(head):
        return "pickle"
    if _has_safetensors_shape(head):
        return "safetensors"
    return "tflite" if head[4:8] == b"TFL3" else None


def _has_safetensors_shape(head: bytes) -> bool:
    length = int.from_bytes(head[:LENGTH_BYTES], "little")
    return 2 <= length <= MAX_HEADER and head[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{"


def _is_pickle_stream(head: bytes) -> bool:
    if pickles.has_header(head) and not _has_safetensors_shape(head):
        return True
    # Protocols 0 and 1 have no header; and a header of so many bytes could be a pickle's too.
    return pickles.runs_on(head)
