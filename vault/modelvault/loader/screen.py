"""What is looked at in a file before a job gets it.

Pickles are kept from a job whose policy doesn't allow them: by what they are, not by name. An ONNX
model or an index of shards that names files outside of its folder is kept from everybody: engines
would open them; and so is a GGUF file whose header lies, since engines that read it in C have often
believed it.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Collection

from modelvault.errors import AccessDenied, IntegrityError, InvalidRequest
from modelvault.loader.opened import opened
from modelvault.loader.resident import Resident
from modelvault.weights import gguf, index, onnx, sniff


class Screen:
    """Looks once into each file before it is handed out. Thread-safe."""

    def __init__(self, allowed: bool, hinted: Collection[str]) -> None:
        """`hinted` are the paths that the manifest calls pickles: good for refusing only."""
        self._allowed = allowed
        self._hinted = frozenset(hinted)
        self._cleared: set[str] = set()

    def check(self, resident: Resident) -> None:
        """Raises AccessDenied (`pickle_refused`), IntegrityError (`bad_onnx`, `bad_index`,
        `bad_gguf`), or what reading the file raises."""
        if resident.path in self._cleared:
            return
        kind = self._kind(resident)
        if sniff.is_pickle(kind):
            raise _pickle(resident.path)
        name = resident.path.lower()
        if name.endswith(onnx.SUFFIX):
            onnx.externals(resident.copy, resident.size, resident.path)
        if index.is_index(resident.path):
            index.check_names(resident.copy(0, resident.size), resident.path)
        if kind == "gguf" or name.endswith(gguf.SUFFIX):
            _check_gguf(resident)
        self._cleared.add(resident.path)

    def _kind(self, resident: Resident) -> str:
        """By the file's contents, which needn't be looked at where pickles are allowed."""
        if self._allowed:
            return ""
        return "pickle" if resident.path in self._hinted else _format(resident)


def _pickle(path: str) -> AccessDenied:
    return AccessDenied(
        "pickle_refused",
        f"{path} is a pickle: opening it can run any code that is in it",
        "convert it to safetensors and push that, leave it out (name the files you want), "
        "or ask the model's owner for the obligation allow_pickle",
        file=path,
        reasons=["pickle_refused"],
    )


def _check_gguf(resident: Resident) -> None:
    """Lies are for nobody. A type of tensors that isn't known here is for the engine to know, and
    all else is looked at; so is another version, byte order or magic, which no engine of today
    reads: they refuse by that number."""
    if resident.copy(0, min(len(gguf.MAGIC), resident.size)) != gguf.MAGIC:
        return
    try:
        gguf.check(resident.copy, resident.size)
    except IntegrityError as refused:
        raise resident.named(refused) from None
    except InvalidRequest:
        return


def _format(resident: Resident) -> str:
    head = resident.copy(0, min(sniff.SNIFF_BYTES, resident.size))
    found = sniff.sniff(resident.path, head)
    return _zip_format(resident) if found == "zip" else found


def _zip_format(resident: Resident) -> str:
    try:
        with opened(resident) as file, zipfile.ZipFile(file) as archive:
            return sniff.sniff_zip(archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error):
        return "torch-zip"  # what Python can't list, a more lenient unpickler may still open
