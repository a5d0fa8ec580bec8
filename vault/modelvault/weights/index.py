"""Weights in several files: which of them holds which tensor (`*.safetensors.index.json`), and
which belong together by their names (GGUF). No I/O."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Mapping, Sequence

from modelvault import canonical
from modelvault.errors import IntegrityError, InvalidRequest
from modelvault.weights.safetensors import TensorInfo

SUFFIX = ".safetensors.index.json"
_ANY = re.compile(r".+\.index(\.[^/.]+)?\.json", re.IGNORECASE)  # of pickles, of variants, ...
MAX_BYTES = 100_000_000
_SPLIT = re.compile(r"(.+-)(\d{5})-of-(\d{5})(\.gguf)")  # as llama.cpp names them

Located = tuple[str, TensorInfo]


def parse(data: bytes, path: str) -> dict[str, str]:
    """{tensor's name: path of its file} from the index at `path`.

    Shards are named relative to the index's folder and may not leave it.
    Raises IntegrityError (`bad_index`) for anything that isn't such an index.
    """
    weights = _weight_map(data, path)
    if not isinstance(weights, dict) or not weights:
        raise _lie(path, "it has no weight_map")
    folder = posixpath.dirname(path)
    return {name: posixpath.join(folder, _shard(path, shard)) for name, shard in weights.items()}


def is_index(path: str) -> bool:
    """Whether engines may take the file at `path` for an index of shards of any kind."""
    return _ANY.fullmatch(path) is not None


def check_names(data: bytes, path: str) -> None:
    """That the index at `path`, of whatever kind of shards, names none outside of its folder.

    Raises IntegrityError (`bad_index`).
    """
    if path.endswith(SUFFIX):
        parse(data, path)
        return
    weights = _weight_map(data, path)
    for shard in weights.values() if isinstance(weights, dict) else ():
        _plain_path(path, shard)


def check(path: str, weights: Mapping[str, str], files: Collection[str]) -> None:
    """That every shard named by the index at `path` is one of `files`, the version's paths.

    Raises IntegrityError (`missing_shard`).
    """
    _check_held(path, set(weights.values()), files)


def check_splits(paths: Collection[str], files: Collection[str]) -> None:
    """That, of each GGUF file among `paths` that is one of several, the others are in `files` too.

    Raises IntegrityError (`missing_shard`).
    """
    for path in paths:
        parts = _SPLIT.fullmatch(path)
        if parts is not None:
            first, _, count, ending = parts.groups()
            split = {f"{first}{at:05}-of-{count}{ending}" for at in range(1, int(count) + 1)}
            _check_held(path, split, files)


def merge(tensors: Mapping[str, Sequence[TensorInfo]]) -> dict[str, Located]:
    """{name: (path, tensor)} over several files' tensors.

    Raises IntegrityError (`duplicate_tensor`) when two files hold one name.
    """
    merged: dict[str, Located] = {}
    for path, infos in tensors.items():
        for info in infos:
            if info.name in merged:
                raise IntegrityError(
                    "duplicate_tensor",
                    f"{merged[info.name][0]} and {path} both hold a tensor {info.name!r}",
                    "name the file that you want: tensors(path)",
                )
            merged[info.name] = (path, info)
    return merged


def check_places(path: str, weights: Mapping[str, str], merged: Mapping[str, Located]) -> None:
    """That every tensor is in the shard where the index at `path` says it is.

    Raises IntegrityError (`misplaced_tensor`).
    """
    for name, shard in weights.items():
        found = merged.get(name)
        if found is None or found[0] != shard:
            where = "nowhere" if found is None else f"in {found[0]}"
            raise IntegrityError(
                "misplaced_tensor",
                f"{path}: it says that {name!r} is in {shard}; it is {where}",
                "push the folder again with an index that fits its shards",
            )


def _check_held(path: str, wanted: Collection[str], files: Collection[str]) -> None:
    missing = sorted(set(wanted) - set(files))
    if missing:
        raise IntegrityError(
            "missing_shard",
            f"{path}: it names {missing[0]!r}, which this version doesn't hold"
            + (f" ({len(missing)} such files)" if len(missing) > 1 else ""),
            "push the folder again with all its shards",
        )


def _weight_map(data: bytes, path: str) -> object:
    try:
        document = canonical.loads_foreign(data, MAX_BYTES)
    except InvalidRequest as refused:
        raise _lie(path, refused.message) from None
    return document.get("weight_map") if isinstance(document, dict) else None


def _shard(path: str, shard: object) -> str:
    if not isinstance(shard, str) or not shard.endswith(".safetensors"):
        raise _lie(path, "weight_map holds something that isn't a .safetensors name")
    return _plain_path(path, shard)


def _plain_path(path: str, shard: object) -> str:
    if not isinstance(shard, str):
        raise _lie(path, "weight_map holds something that isn't a name")
    if shard.startswith("/") or "\\" in shard or posixpath.normpath(shard) != shard:
        raise _lie(path, f"a shard's name isn't a plain relative path: {shard[:80]!r}")
    if shard.split("/", 1)[0] == "..":
        raise _lie(path, f"a shard lies outside the index's folder: {shard[:80]!r}")
    return shard


def _lie(path: str, what: str) -> IntegrityError:
    return IntegrityError(
        "bad_index",
        f"{path}: not a sound index of shards: {what}",
        "write the index anew and push the folder as a new version",
    )
