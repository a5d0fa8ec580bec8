"""vLLM's door: `--load-format modelvault` streams the weights of the run that vLLM is part of.

    modelvault run llama:prod --purpose inference --stream --
        vllm serve {model} --load-format modelvault

vLLM loads this module by its entry point in each of its processes. Config and tokenizer come out of
the folder `{model}`, which holds no weights; each worker attaches to the run's holder and takes its
tensors from memory that all of them share, under one lease.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from modelvault.clock import steady_ns
from modelvault.errors import Conflict, InvalidRequest
from modelvault.loader.model import Model
from modelvault.sharing.attached import attach
from modelvault.weights import index

LOAD_FORMAT = "modelvault"
_INDEX = "model.safetensors.index.json"
_CONFIG = "config.json"


def register() -> None:
    """Make the load format known to this process's vLLM. Doing it again is fine."""
    from vllm.model_executor.model_loader import register_model_loader
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

    class ModelVaultLoader(DefaultModelLoader):  # type: ignore[misc]
        """As the default loader, with the weights of the run's model in the place of files."""

        def download_model(self, model_config: Any) -> None:  # noqa: ANN401
            """There is nothing to fetch before."""

        def get_all_weights(self, model_config: Any, model: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
            """(name, tensor) of all weights, one after the other."""
            if getattr(model, "secondary_weights", ()):
                raise InvalidRequest(
                    "unsupported_model",
                    f"{type(model).__name__} wants weights of a second model",
                    "run it on plain files, or push both as one version",
                )
            # vLLM's log says how long loading took since this moment.
            self.counter_before_loading_weights = steady_ns() / 1e9
            return weights(str(model_config.model))

    register_model_loader(LOAD_FORMAT)(ModelVaultLoader)


def weights(folder: str) -> Iterator[tuple[str, Any]]:
    """(name, torch.Tensor) of the attached model, whose other files are in `folder`.

    The tensors are views of the shared memory. It is let go of when the last of them is dropped.
    Raises what `modelvault.attach()` and the model raise, and InvalidRequest (`other_model`).
    """
    model = attach()
    try:
        check_same(model, folder)
        with model.iter_tensors(*files(model)) as stream:
            yield from stream
    finally:
        with suppress(Conflict):  # vLLM still looks at the last of them: it goes with that
            model.close()


def files(model: Model) -> tuple[str, ...]:
    """The weight files that vLLM would read from a folder: those of the index where there is one,
    else all in the folder itself. NotFound (`no_tensors`)."""
    if _INDEX in model.files:
        with model.open(_INDEX) as file:
            return tuple(sorted(set(index.parse(file.read(), _INDEX).values())))
    return tuple(path for path in model.files if path.endswith(".safetensors") and "/" not in path)


def check_same(model: Model, folder: str) -> None:
    """Raise InvalidRequest (`other_model`) where vLLM is about to fill another model, a draft model
    say, whose folder isn't the one that belongs to these weights."""
    here = Path(folder) / _CONFIG
    if _CONFIG in model.files:
        with model.open(_CONFIG) as file:
            config = file.read()
        if not here.is_file() or here.read_bytes() != config:
            raise InvalidRequest(
                "other_model",
                f"{folder} doesn't belong to {model.name}, which this run holds",
                "name the folder {model} to vLLM, and for other models another load format",
            )
