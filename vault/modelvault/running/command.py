"""What is run: its words, its environment, and where its program is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from modelvault.errors import InvalidRequest
from modelvault.sharing import host

PLACEHOLDER = "{model}"
MODEL_VARIABLE = "MODELVAULT_MODEL"

# What proves to the vault who is asking is no business of the command's, and a run that this one is
# inside of shares another model.
SECRET = frozenset({"MODELVAULT_TOKEN", "MODELVAULT_PASSPHRASE"})
_NOT_PASSED_ON = SECRET | {host.VARIABLE}


def words(command: Sequence[str], folder: Path) -> tuple[str, ...]:
    """The command with the folder's name wherever `{model}` stands, also inside a word."""
    return tuple(word.replace(PLACEHOLDER, str(folder)) for word in command)


def environment(
    env: Mapping[str, str], folder: Path, withheld: Collection[str] = (), run: Path | None = None
) -> dict[str, str]:
    """`env` without tokens and passphrases (and the variables `withheld`), with the model's folder.

    `run` is the folder with the socket of who shares the model, where somebody does.
    """
    kept = {
        name: value
        for name, value in env.items()
        if name not in _NOT_PASSED_ON and name not in withheld
    }
    shared = {} if run is None else {host.VARIABLE: str(run)}
    return kept | shared | {MODEL_VARIABLE: str(folder)}


def check(command: Sequence[str], env: Mapping[str, str]) -> None:
    """Say early, before a lease is taken, what can't be run.

    Raises InvalidRequest (`command_not_found`, `command_not_executable`). A program inside the
    model's folder isn't looked for: that isn't there yet.
    """
    program = command[0]
    if PLACEHOLDER in program or shutil.which(program, path=env.get("PATH", os.defpath)):
        return
    if "/" in program and Path(program).exists():
        raise not_executable(program, "no permission, or a folder")
    raise not_found(program)


def not_found(program: str) -> InvalidRequest:
    """There is no such program."""
    return InvalidRequest(
        "command_not_found",
        f"there is no program {program!r}",
        "check its spelling and PATH; shell syntax needs a shell: -- sh -c '…'",
    )


def not_executable(program: str, why: str) -> InvalidRequest:
    """It is there, and can't be run."""
    return InvalidRequest(
        "command_not_executable",
        f"{program} can't be run: {why}",
        "make it executable (chmod +x), or name its interpreter: -- python script.py",
    )
