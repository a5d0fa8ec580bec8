"""Signing keys are exchanged: a new key in the key service, and the trust file that names it.

From the moment that the key service has the new key, what is signed isn't believed until the new
trust file is in place: so brokers are stopped for this, and clients get the file before they meet
what it vouches for. A run that was cut off in between is finished by the next one, which takes the
key that the key service has and the trust file hasn't.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from modelvault import clock as clocks
from modelvault import deployment as deployments
from modelvault.client.pins import read_trust, write_new, write_private
from modelvault.crypto import dsse
from modelvault.crypto.dsse import Envelope
from modelvault.deployment import Deployment
from modelvault.errors import Conflict, InvalidRequest
from modelvault.record import TRUST_TYPE, Entry, KeyPurpose, TrustFile, TrustKey
from modelvault.settings import Settings
from modelvault.settings import read as settings_of
from modelvault.wiring import hcvault, places, remote, roots
from modelvault.wiring.home import Home
from modelvault.wiring.roots import Ask

if TYPE_CHECKING:
    from modelvault.ports.keys import SigningAdmin
    from modelvault.ports.ledger import Ledger


def at_home(home: Path | None, purpose: KeyPurpose, out: Path) -> TrustFile:
    """Exchange the signing key of the home that the settings name."""
    told = settings_of(os.environ, home=home)
    return of_home(Home(told.home), told, roots.terminal(), purpose, out)


def at_deployment(path: Path, token_file: Path, purpose: KeyPurpose, out: Path) -> TrustFile:
    """Exchange the signing key of the vault that a deployment file tells of."""
    token = deployments.secret_text(token_file)
    return of_deployment(deployments.read(path), token, purpose, out)


def pinned_file(profile: str | None) -> Path:
    """The trust file that a session with a broker would go by."""
    return remote.trust_path(settings_of(os.environ, profile=profile))


def of_home(
    home: Home, settings: Settings, ask: Ask | None, purpose: KeyPurpose, out: Path
) -> TrustFile:
    """Exchange a home's signing key. Raises as `embedded.open_parts` and `write_new` do."""
    from modelvault.adapters.keys_local import LocalKeyring
    from modelvault.adapters.ledger_sql import SqlLedger

    described = home.read()
    source = roots.source(described.root, described.vault, settings, ask)
    with LocalKeyring(home.keyring, source) as keyring:
        roots.forget(source)
        ledger = SqlLedger(home.ledger_url, clocks.utc_ms)
        try:
            actor = f"local:{described.identity.sub}"
            return _exchange(keyring, ledger, home.trust, purpose, out, actor)
        finally:
            ledger.close()


def of_deployment(told: Deployment, admin_token: str, purpose: KeyPurpose, out: Path) -> TrustFile:
    """Exchange a served vault's signing key, with an administrator's token at its key service."""
    from modelvault.adapters.keys_hcvault.setup import Setup

    setup = Setup(hcvault.key_server(told), admin_token)
    try:
        ledger = places.open_ledger(told)
        try:
            return _exchange(
                setup.signing_admin(), ledger, told.vault.trust, purpose, out, "administrator"
            )
        finally:
            ledger.close()
    finally:
        setup.close()


def _exchange(
    keys: SigningAdmin, ledger: Ledger, trust: Path, purpose: KeyPurpose, out: Path, actor: str
) -> TrustFile:
    held = read_trust(trust)
    if out.exists():  # before anything is exchanged
        raise Conflict("file_exists", f"{out} exists already", "name a new file")
    newest = keys.public_key(purpose)
    if newest in held.keys_for(purpose).values():
        newest = keys.rotate_signing(purpose)
    now = clocks.to_text(ledger.now())
    made = successor(held, purpose, newest, now)
    envelope = signed(made, held, partial(keys.sign_with, "record"))
    write_new(out, envelope.to_bytes())
    write_private(trust, made.to_bytes())
    entry = Entry(
        id=secrets.token_hex(16),
        at=now,
        actor=actor,
        action="trust",
        outcome="done",
        details={"purpose": purpose, "serial": made.serial, "keyid": dsse.keyid(newest)},
    )
    ledger.append(entry)
    return made


def successor(held: TrustFile, purpose: KeyPurpose, public_key: bytes, now: str) -> TrustFile:
    """`held` with a new key for `purpose`; the one that it replaces signs nothing new from now."""
    kept = tuple(
        msgspec.structs.replace(key, retired=now)
        if key.purpose == purpose and key.retired is None
        else key
        for key in held.keys
    )
    added = TrustKey(
        keyid=dsse.keyid(public_key), purpose=purpose, public_key=public_key, valid_from=now
    )
    return msgspec.structs.replace(held, keys=(*kept, added), serial=held.serial + 1)


def signed(
    made: TrustFile, held: TrustFile, sign_with: Callable[[bytes, bytes], dsse.Signature]
) -> Envelope:
    """Signed by a record key of the file that it follows."""
    able = [key for key in held.keys if key.purpose == "record" and key.retired is None]
    if not able:
        raise InvalidRequest(
            "no_signing_key",
            "the trust file names no record key that could sign the next one",
            "hand the new trust file out by another way, as the first one was",
        )
    return dsse.sign(TRUST_TYPE, made.to_bytes(), partial(sign_with, able[-1].public_key))
