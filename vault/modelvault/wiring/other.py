"""The other vault of a copy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from modelvault import settings, wiring
from modelvault.client.session import Session
from modelvault.errors import InvalidRequest, ModelVaultError, unframed


def connect(
    *, home: str | Path | None = None, url: str | None = None, profile: str | None = None
) -> Session:
    """A session with the other vault, beside the one that `modelvault.connect` gives.

    Nothing that says where, whom to trust and who is asking counts for both: here the profile does,
    and variables that begin with MODELVAULT_TO_ (MODELVAULT_TO_BROKER, MODELVAULT_TO_TRUST, …)
    instead of MODELVAULT_. Raises as `connect`, and InvalidRequest (`no_other_vault`) where nothing
    names one.
    """
    env = environment(os.environ)
    named = (home, url, profile, *map(env.get, ("MODELVAULT_HOME", "MODELVAULT_BROKER")))
    if not any(named) and not env.get("MODELVAULT_PROFILE"):
        raise InvalidRequest(
            "no_other_vault",
            "nothing says which vault the copy goes to",
            "name it: --to-profile NAME, --to-broker URL or --to-home DIR",
        )
    place = None if home is None else Path(home)
    try:
        told = settings.read(env, home=place, profile=profile, cpus=os.cpu_count())
    except ModelVaultError as refused:
        raise unframed(refused) from None
    return wiring.connected(url, told, embedded=home is not None)


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """The environment as the other vault's session reads it."""
    shared = {"MODELVAULT_CONFIG", "MODELVAULT_THREADS"}
    kept = {
        name: text
        for name, text in env.items()
        if not name.startswith("MODELVAULT_") or name in shared
    }
    other = {
        f"MODELVAULT_{name.removeprefix('MODELVAULT_TO_')}": text
        for name, text in env.items()
        if name.startswith("MODELVAULT_TO_")
    }
    return kept | other
