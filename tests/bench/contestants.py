"""Who is compared at loading: what people use for files in the clear or encrypted, and ours.

A contestant loads a file and shows each of its tensors to `use` as soon as it has it. What it needs
is imported when it is made, so a package that isn't installed is told of before anything is timed.
Contestants with the same `kind` load the same file, which one of them prepares.
"""

from __future__ import annotations

import atexit
import base64
import importlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from weights import mmap_and, touch

Use = Callable[[Any], None]
Source = dict[str, Any]  # what `load` is told; `files` are what has to be read from the disk


class Contestant(Protocol):
    label: str
    kind: str

    def __init__(self, threads: int) -> None: ...

    def prepare(self, plain: Path, folder: Path) -> Source: ...

    def load(self, source: Source, use: Use) -> None: ...


class _Plain:
    kind = "plain"

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def prepare(self, plain: Path, folder: Path) -> Source:
        return {"files": [str(plain)]}


class Mmap(_Plain):
    label = "mmap and touch every page"

    def load(self, source: Source, use: Use) -> None:
        mmap_and(lambda mapped: use(mapped) or 0, Path(source["files"][0]))


class SafetensorsNumpy(_Plain):
    label = "safetensors.numpy.load_file"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self._load = importlib.import_module("safetensors.numpy").load_file

    def load(self, source: Source, use: Use) -> None:
        for array in self._load(source["files"][0]).values():
            use(array)


class SafetensorsTorch(SafetensorsNumpy):
    label = "safetensors.torch.load_file"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self._load = importlib.import_module("safetensors.torch").load_file


class RunAi(_Plain):
    label = "Run:ai model streamer"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        os.environ["RUNAI_STREAMER_CONCURRENCY"] = str(threads)
        self._streamer = importlib.import_module("runai_model_streamer").SafetensorsStreamer

    def load(self, source: Source, use: Use) -> None:
        with self._streamer() as streamer:
            streamer.stream_file(source["files"][0])
            for _, tensor in streamer.get_tensors():
                use(tensor)


class Fast(_Plain):
    label = "fastsafetensors"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self._package = importlib.import_module("fastsafetensors")

    def load(self, source: Source, use: Use) -> None:
        package = self._package
        loader = package.SafeTensorsFileLoader(
            package.SingleGroup(), device="cpu", nogds=True, max_threads=self._threads
        )
        loader.add_filenames({0: [source["files"][0]]})
        buffers = loader.copy_files_to_device()
        for name in list(buffers.key_to_rank_lidx):
            use(buffers.get_tensor(name))
        buffers.close()
        loader.close()


class Tensorizer:
    label = "tensorizer, not encrypted"
    kind = "tensorizer"
    encrypted = False

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._package = importlib.import_module("tensorizer")

    def prepare(self, plain: Path, folder: Path) -> Source:
        path = folder / f"{plain.name}.{self.kind}"
        key = self._package.EncryptionParams.random() if self.encrypted else None
        serializer = self._package.TensorSerializer(str(path), encryption=key)
        serializer.write_state_dict(importlib.import_module("safetensors.torch").load_file(plain))
        serializer.close()
        return {"files": [str(path)], "key": base64.b64encode(key.key).decode() if key else None}

    def load(self, source: Source, use: Use) -> None:
        self._show(source["files"][0], source, use)

    def _show(self, opened: Any, source: Source, use: Use) -> None:
        with self._package.TensorDeserializer(
            opened, device="cpu", num_readers=self._threads, encryption=self._opening(source)
        ) as tensors:
            for name in tensors:
                use(tensors[name].detach())

    def _opening(self, source: Source) -> Any:
        if source["key"] is None:
            return None
        return self._package.DecryptionParams.from_key(base64.b64decode(source["key"]))


class TensorizerEncrypted(Tensorizer):
    label = "tensorizer, encrypted"
    kind = "tensorizer-encrypted"
    encrypted = True


class CryptoTensors:
    label = "cryptotensors"
    kind = "cryptotensors"

    def __init__(self, threads: int) -> None:
        self._package = importlib.import_module("cryptotensors")
        self._numpy = importlib.import_module("cryptotensors.numpy")

    def prepare(self, plain: Path, folder: Path) -> Source:
        from load import cryptotensors_file

        path = folder / f"{plain.name}.cryptotensors"
        return {"files": [str(path)], "keys": cryptotensors_file(plain, path)}

    def load(self, source: Source, use: Use) -> None:
        self._package.register_tmp_key_provider(keys=source["keys"])
        for array in self._numpy.load_file(source["files"][0]).values():
            use(array)


class Ours:
    """Lease, verify, decrypt all, use it, wipe: all of it through the public session."""

    label = "modelvault, tensors()"
    kind = "vault"

    def __init__(self, threads: int) -> None:
        os.environ["MODELVAULT_THREADS"] = str(threads)
        self._modelvault = importlib.import_module("modelvault")
        self._sessions: dict[str, Any] = {}
        atexit.register(self.close)

    def prepare(self, plain: Path, folder: Path) -> Source:
        from load import vault

        home = folder / f"{plain.name}.vault"
        home.mkdir()
        with vault(home) as session:
            session.push(plain, "m:bench")
        stored = [str(path) for path in (home / "home" / "objects").rglob("*") if path.is_file()]
        return {"files": stored, "home": str(home), "reference": "m:bench"}

    def load(self, source: Source, use: Use) -> None:
        with self._session(source).load(source["reference"], purpose="inference") as model:
            self._show(model, use)

    def _show(self, model: Any, use: Use) -> None:
        views = model.tensors()
        for name in views:
            use(views[name])

    def _session(self, source: Source) -> Any:
        """One session at a time: the home before is gone."""
        home = source["home"]
        if home not in self._sessions:
            self.close()
            os.environ["XDG_CONFIG_HOME"] = f"{home}/config"
            self._sessions[home] = self._modelvault.connect(home=f"{home}/home")
        return self._sessions[home]

    def close(self) -> None:
        """End what is open."""
        while self._sessions:
            self._sessions.popitem()[1].close()


class OursTorch(Ours):
    label = "modelvault, state_dict()"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        importlib.import_module("torch")

    def _show(self, model: Any, use: Use) -> None:
        tensors = model.state_dict()
        for name in tensors:
            use(tensors[name])


class OursStreaming(OursTorch):
    label = "modelvault, iter_tensors()"

    def _show(self, model: Any, use: Use) -> None:
        for _, tensor in model.iter_tensors():
            use(tensor)


CONTESTANTS: dict[str, type[Contestant]] = {
    "mmap": Mmap,
    "safetensors-numpy": SafetensorsNumpy,
    "safetensors-torch": SafetensorsTorch,
    "runai": RunAi,
    "fastsafetensors": Fast,
    "tensorizer": Tensorizer,
    "tensorizer-encrypted": TensorizerEncrypted,
    "cryptotensors": CryptoTensors,
    "ours": Ours,
    "ours-torch": OursTorch,
    "ours-streaming": OursStreaming,
}


def as_bytes(tensor: Any) -> memoryview:
    """The bytes of a mapping, an array or a tensor on the CPU."""
    if hasattr(tensor, "detach"):
        tensor = tensor.reshape(-1).numpy()
    return memoryview(tensor).cast("B")


def touched(tensor: Any) -> int:
    return touch(as_bytes(tensor))


def remove(source: Source) -> None:
    for path in source["files"]:
        Path(path).unlink(missing_ok=True)
    if "home" in source:
        shutil.rmtree(source["home"], ignore_errors=True)
