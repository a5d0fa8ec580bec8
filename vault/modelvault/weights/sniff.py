"""What a file is, by its first bytes; by its name only where the bytes don't tell.

Pickles run code when they are opened, so they are looked for under any name: protocol 2 and up by
the header, older ones by their opcodes, torch's zip archives by the `data.pkl` within.
"""

from __future__ import annotations

import pickletools
import posixpath
import re
from collections.abc import Iterable

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
_DOTTED = re.compile(r"[A-Za-z_][\w.]* [A-Za-z_][\w.]*")
_OLD_PICKLE_BEGINS = b"(])}lcidIJKMLSVXUTNFGPQ"
_WHOLE = 1 << 30
_KNOWN_OPCODES = frozenset(ord(opcode.code) for opcode in pickletools.opcodes)


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
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        if _has_safetensors_shape(head):  # a header of so many bytes, unless its JSON is code too
            return _opcodes(head) >= 4
        return len(head) > 2 and head[2] in _KNOWN_OPCODES
    # Protocols 0 and 1 have no header: only what runs on as a program does.
    return head[:1] != b"" and head[0] in _OLD_PICKLE_BEGINS and _opcodes(head) >= 8


def _opcodes(head: bytes) -> int:
    """How many opcodes `head` begins with; a program that reaches its end counts as very many."""
    count = 0
    try:
        for opcode, argument, _offset in pickletools.genops(head):
            if opcode.name in ("GLOBAL", "INST") and not _DOTTED.fullmatch(str(argument)):
                return 0
            if opcode.name == "STOP":
                return _WHOLE if count >= 3 else 0
            count += 1
    except ValueError:
        return count  # an unknown opcode, or an argument that the head cuts off
    return count
