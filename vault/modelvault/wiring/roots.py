"""Where an embedded vault's root key comes from, by its description and this process's settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from modelvault.errors import InvalidRequest
from modelvault.settings import Settings
from modelvault.wiring.home import Root, RootKind

if TYPE_CHECKING:
    from modelvault.adapters.keys_local import RootSource

Ask = Callable[[str], str]
MAX_PASSPHRASE = 64 << 10


def choose(kind: RootKind, vault: str, settings: Settings) -> Root:
    """The root of a new vault: a key file lies outside its home, under the user's configuration."""
    if kind == "file":
        return Root("file", str(settings.config_home / f"{vault}.key"))
    return Root(kind)


def source(root: Root, vault: str, settings: Settings, ask: Ask | None) -> RootSource:
    """What gives the root key; a passphrase is read now.

    Raises InvalidRequest (`no_passphrase`, `bad_passphrase`, `bad_root`).
    """
    from modelvault.adapters.keys_local import KeyFile, OsKeyring, Passphrase

    if root.kind == "passphrase":
        return Passphrase.of(_passphrase(settings, ask))
    if root.kind == "keyring":
        return OsKeyring(f"modelvault:{vault}")
    if root.path is None:
        raise InvalidRequest("bad_root", "vault.json names no key file", "restore vault.json")
    return KeyFile(Path(root.path))


def forget(source: RootSource) -> None:
    """Wipe a passphrase once the keyring is open."""
    from modelvault.adapters.keys_local import Passphrase

    if isinstance(source, Passphrase):
        source.text.wipe()


def terminal() -> Ask | None:
    """Asks the person at the terminal without showing the answer; None where there is nobody."""
    if not sys.stdin.isatty():
        return None
    from getpass import getpass

    return getpass


def twice(ask: Ask | None) -> Ask | None:
    """Asks for a new passphrase two times: a slip in the only one would lock everybody out.

    What it returns raises InvalidRequest (`passphrases_differ`).
    """
    if ask is None:
        return None

    def asking(prompt: str) -> str:
        first = ask(prompt)
        if ask("The same again: ") == first:
            return first
        del first  # tracebacks may be shown with their locals
        raise InvalidRequest(
            "passphrases_differ",
            "the second passphrase isn't the first one",
            "nothing was made; run it again",
        )

    return asking


def _passphrase(settings: Settings, ask: Ask | None) -> str:
    if settings.passphrase_file is not None:
        return _first_line(settings.passphrase_file)
    if settings.passphrase is not None:
        return settings.passphrase
    if ask is not None:
        return ask("Passphrase of the vault: ")
    raise InvalidRequest(
        "no_passphrase",
        "this vault's root key comes from a passphrase, and there is nobody to ask for it",
        "set MODELVAULT_PASSPHRASE_FILE to a file that holds it",
    )


def _first_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            line = file.read(MAX_PASSPHRASE).split(b"\n", 1)[0].removesuffix(b"\r")
        return line.decode("utf-8")
    except OSError as error:
        why = os.strerror(error.errno or 0)
    except UnicodeDecodeError:
        why = "not UTF-8"
    raise InvalidRequest(
        "no_passphrase", f"can't read the passphrase file {path}: {why}", "check the path"
    )
