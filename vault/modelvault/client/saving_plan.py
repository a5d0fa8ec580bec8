"""From a state to the files of a version: which tensor goes into which file, under which name."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import msgspec

from modelvault.client.content import Content
from modelvault.client.saving_contents import SmallFile, WeightsFile
from modelvault.client.saving_tensors import Tensor, tensor_of
from modelvault.errors import InvalidRequest
from modelvault.manifest import MAX_FILES, check_paths
from modelvault.weights.index import SUFFIX
from modelvault.weights.layout import check_name, lay_out
from modelvault.weights.safetensors import short

WHOLE = "model.safetensors"
_SHARD = "model-{at:05}-of-{of:05}.safetensors"
_INDEX = "model" + SUFFIX
_METADATA = {"format": "pt"}  # as every reader of Hugging Face's layout expects it


def plan(
    state: Mapping[str, object], files: Mapping[str, bytes], max_shard_size: int | None
) -> tuple[Content, ...]:
    """The contents of a version of these tensors and files, by path. Nothing is copied.

    A tensor that stands in the state under several names is stored once. Raises InvalidRequest:
    `nothing_to_save`, `bad_tensor_name`, `not_a_tensor`, `unsupported_dtype`, `unsupported_tensor`,
    `too_many_tensors`, `bad_shard_size`, `not_bytes`, `file_clash`, `bad_path`, `too_many_files`.
    """
    tensors, tied = tensors_of(state)
    shards = _shards(tensors, max_shard_size)
    places: dict[str, str] = {}
    contents: dict[str, Content] = {}
    for at, shard in enumerate(shards, 1):
        path = WHOLE if max_shard_size is None else _SHARD.format(at=at, of=len(shards))
        contents[path] = weights_file(path, shard, tied)
        places |= {tensor.row.name: path for tensor in shard}
    if max_shard_size is not None:
        places |= {name: places[kept] for name, kept in tied.items()}
        contents[_INDEX] = SmallFile(_INDEX, _index(tensors, places))
    return with_files(contents, files)


def tensors_of(state: Mapping[str, object]) -> tuple[list[Tensor], dict[str, str]]:
    """The tensors of a state, and {further name: first name} of those that it has twice."""
    if not isinstance(state, Mapping) or not state:
        what = "an empty one" if isinstance(state, Mapping) else f"a {type(state).__name__}"
        raise InvalidRequest(
            "nothing_to_save",
            f"a state is a mapping of names to tensors, and this is {what}",
            "save model.state_dict(); for files on a disk there is push()",
        )
    tensors: list[Tensor] = []
    tied: dict[str, str] = {}
    first: dict[Hashable, str] = {}
    seen: set[str] = set()
    for name, value in state.items():
        if check_name(name) in seen:  # a mapping that isn't a dict may say a name twice
            raise InvalidRequest(
                "bad_tensor_name",
                f"the name {short(name)} stands twice in this state",
                "rename one",
            )
        seen.add(name)
        tensor = tensor_of(name, value)
        kept = first.setdefault(tensor.known, name) if tensor.row.size else name
        if kept == name:
            tensors.append(tensor)
        else:
            tied[name] = kept
    return tensors, tied


def weights_file(path: str, tensors: Sequence[Tensor], tied: Mapping[str, str]) -> WeightsFile:
    """One safetensors file; of `tied` it tells what is of its own tensors."""
    by_name = {tensor.row.name: tensor for tensor in tensors}
    own = {name: kept for name, kept in tied.items() if kept in by_name}
    layout = lay_out([tensor.row for tensor in tensors], own, _METADATA)
    return WeightsFile(path, layout, by_name)


def with_files(contents: Mapping[str, Content], files: Mapping[str, bytes]) -> tuple[Content, ...]:
    """All contents by path, with the further files among them."""
    found = dict(contents)
    if not isinstance(files, Mapping):
        raise InvalidRequest(
            "not_bytes",
            f"the files are given as {type(files).__name__}",
            'give a mapping of names to contents: files={"config.json": b"{}"}',
        )
    for path, data in files.items():
        if not isinstance(path, str) or not isinstance(data, bytes | bytearray | memoryview):
            raise InvalidRequest(
                "not_bytes",
                f"the file {short(str(path))} is given as {type(data).__name__}",
                "give names as texts and contents as bytes",
            )
        if path in found:
            raise InvalidRequest(
                "file_clash", f"{short(path)} is the name of a file of weights", "rename it"
            )
        found[path] = SmallFile(path, bytes(data))
    check_paths(sorted(found))
    return tuple(found[path] for path in sorted(found))


def _shards(tensors: Sequence[Tensor], most: int | None) -> list[list[Tensor]]:
    """Tensors as they come, together up to `most` bytes; a larger one is alone."""
    if most is None:
        return [list(tensors)]
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise InvalidRequest(
            "bad_shard_size", f"max_shard_size is {most!r}", "give it in bytes: 5 * 10**9"
        )
    shards: list[list[Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.row.size > most:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.row.size
    if len(shards) >= MAX_FILES:  # with the index there is one file more
        raise InvalidRequest(
            "too_many_files",
            f"max_shard_size={most:,} makes {len(shards):,} files of this state; a version holds "
            f"{MAX_FILES:,}",
            "raise max_shard_size",
        )
    return shards


def _index(tensors: Sequence[Tensor], places: Mapping[str, str]) -> bytes:
    size = sum(tensor.row.size for tensor in tensors)
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
    return msgspec.json.format(msgspec.json.encode(index), indent=2)
