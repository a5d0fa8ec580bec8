"""Pickled checkpoints, by torch's unpickler that makes tensors and plain containers alone."""

from __future__ import annotations

from typing import Any

from modelvault.errors import InvalidRequest, ModelVaultError
from modelvault.loader.engines.torch import library
from modelvault.loader.opened import opened
from modelvault.loader.resident import Resident


def load(resident: Resident) -> Any:  # noqa: ANN401
    """What the checkpoint holds, on the CPU. The caller has made sure that pickles are allowed.

    Raises InvalidRequest (`missing_extra`, `bad_checkpoint`), and what reading the file raises.
    """
    torch = library()
    try:
        # Said in words: an environment variable of torch's turns its default off, not this.
        return torch.load(opened(resident), map_location="cpu", weights_only=True)
    except ModelVaultError:
        raise
    except Exception:  # noqa: BLE001 - zipfile's, pickle's, torch's: a stranger's bytes
        # Without their texts, which may hold what is in the file.
        raise InvalidRequest(
            "bad_checkpoint",
            f"{resident.path} isn't a checkpoint of tensors and plain containers alone",
            "save the state dict only, as safetensors, and push that",
            file=resident.path,
        ) from None
