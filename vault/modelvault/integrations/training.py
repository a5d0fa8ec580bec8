"""A trainer's whole state (weights, optimizer, schedule, random numbers, step) in one version.

    tensors, files = flatten({"model": net.state_dict(), "optimizer": optimizer.state_dict(),
                              "rng": torch.get_rng_state(), "step": step})
    vault.save(tensors, f"run:step-{step}", files=files)

    with vault.load("run", purpose="fine-tuning") as model:
        state = restore(model)

Tensors become safetensors; everything else, and how it nests, a strict JSON file beside them. There
is no pickle in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from modelvault import canonical
from modelvault.errors import InvalidRequest, NotFound
from modelvault.weights import plain

if TYPE_CHECKING:
    from modelvault.loader.model import Model

FILE = "training.json"
_SCHEMA = 1
_MAX_BYTES = 64 << 20


def flatten(state: object) -> tuple[dict[str, Any], dict[str, bytes]]:
    """({name: tensor}, {file name: bytes}) of a nested state, for `save` and `begin_save`.

    A tensor's name is its path, with dots between. Nothing is copied. Raises InvalidRequest
    (`not_plain`) naming what is neither a tensor nor a plain value, (`values_too_large`) for more
    than 64 MiB of such, and (`nothing_to_save`).
    """
    tensors: dict[str, Any] = {}

    def name(where: tuple[object, ...], value: object) -> str | None:
        if not _is_tensor(value):
            return None
        stem = ".".join(str(part) for part in where) or "state"
        chosen, number = stem, 1
        while chosen in tensors:  # two paths of one name: {"a.b": ...} and {"a": {"b": ...}}
            number += 1
            chosen = f"{stem}#{number}"
        tensors[chosen] = value
        return chosen

    text = msgspec.json.encode({"schema": _SCHEMA, "state": plain.encode(state, name)})
    if not tensors:
        raise InvalidRequest(
            "nothing_to_save", "there is no tensor in this state", "push a file instead"
        )
    if len(text) > _MAX_BYTES:  # restore() reads no more
        raise InvalidRequest(
            "values_too_large",
            f"what isn't a tensor in this state takes {len(text):,} bytes; the limit is "
            f"{_MAX_BYTES:,}",
            "make tensors of what is large",
        )
    return tensors, {FILE: text}


def restore(model: Model) -> Any:  # noqa: ANN401
    """The nested state as `flatten` was given it, its tensors on the CPU and the caller's own: the
    model can be closed. What was a numpy array is a torch tensor now.

    They are copied one by one, so the peak is the state and a window. Raises NotFound (`no_state`)
    for a version that was saved otherwise, IntegrityError (`bad_checkpoint`) for one that lies.
    """
    if FILE not in model.files:
        raise NotFound(
            "no_state",
            f"{model.name} holds no state of a trainer: there is no {FILE}",
            "save what training.flatten() gives, or read the weights by state_dict()",
        )
    with model.open(FILE) as file:
        told = canonical.loads(file.read(), _MAX_BYTES)
    if not isinstance(told, dict) or set(told) != {"schema", "state"} or told["schema"] != _SCHEMA:
        raise plain.bad_checkpoint(f"{FILE} isn't of schema {_SCHEMA}")
    tensors = {}
    for name, tensor in model.iter_tensors():
        tensors[name] = tensor.clone()
        del tensor
    return plain.decode(told["state"], tensors.__getitem__)


def _is_tensor(value: object) -> bool:
    return hasattr(value, "untyped_storage") or isinstance(value, np.ndarray)
