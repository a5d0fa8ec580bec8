"""What the beginning of a file of weights says, whichever format it is of; and whether the file,
with those beside it, is one that engines will take.
"""

from __future__ import annotations

from collections.abc import Collection

from modelvault.errors import IntegrityError
from modelvault.weights import gguf, index, onnx, safetensors
from modelvault.weights.cursor import Read
from modelvault.weights.safetensors import TensorInfo


def tensors(kind: str, read: Read, size: int) -> tuple[TensorInfo, ...]:
    """The tensors of a file of `size` bytes and of the format `kind` (`weights.sniff`); none of
    formats whose headers don't name them.

    Raises IntegrityError (`bad_safetensors`, `bad_gguf`), InvalidRequest (`unsupported_gguf`).
    """
    if kind == "safetensors":
        length = safetensors.header_size(read(0, min(size, safetensors.LENGTH_BYTES)), size)
        return safetensors.parse(read(0, length), size)
    if kind == "gguf":
        return gguf.parse(read, size).tensors
    return ()


def check(path: str, kind: str, read: Read, size: int, paths: Collection[str]) -> None:
    """That the file at `path` is sound, and that what it names is among `paths`.

    A name that promises a format counts as much as the contents: half a file has others. Raises
    IntegrityError (`bad_safetensors`, `bad_gguf`, `bad_onnx`, `bad_index`, `missing_shard`,
    `missing_external_data`), InvalidRequest (`unsupported_gguf`).
    """
    name = path.lower()
    for promised in ("safetensors", "gguf"):
        if kind == promised or name.endswith("." + promised):
            tensors(promised, read, size)
    if name.endswith(index.SUFFIX):
        index.check(path, index.parse(read(0, size), path), paths)
    elif index.is_index(path):
        index.check_names(read(0, size), path)
    index.check_splits([path], paths)
    if name.endswith(onnx.SUFFIX):
        for each in onnx.externals(read, size, path):
            if each.path not in paths:
                raise IntegrityError(
                    "missing_external_data",
                    f"{path}: its weights lie in {each.path!r}, which isn't there",
                    "push the model's folder with all its files",
                )
