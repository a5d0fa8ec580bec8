"""torch.distributed.checkpoint into a vault and out of it.

    dcp.save(state, storage_writer=VaultWriter(vault, "run:step-1000"))

    with VaultReader(vault, "run:step-1000", purpose="fine-tuning") as reader:
        dcp.load(state, storage_reader=reader)

Each process has a session of its own, all of one identity. They write one version: each gets the
keys of its own file and no others, and the coordinator commits. Nothing in a version is a pickle:
tensors are safetensors, everything else and torch's metadata a strict JSON index
(`weights.checkpoint`).
"""

from modelvault.errors import InvalidRequest

try:
    from modelvault.integrations.checkpoint_reader import VaultReader
    from modelvault.integrations.checkpoint_writer import VaultWriter
except ModuleNotFoundError as missing:
    if missing.name != "torch":
        raise
    raise InvalidRequest(
        "missing_extra",
        "distributed checkpoints need torch, which isn't installed",
        "pip install 'encrypted-model-vault[torch]'",
    ) from None

__all__ = ["VaultReader", "VaultWriter"]
