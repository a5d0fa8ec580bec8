"""The trust files of other vaults that an admin has pinned: of a deployment, or of a home.

A deployment names files, which lie where its own trust file does. A home's lie on the user's disk:
there each is in a record signed by the vault's own key, so that whoever may write to the home but
can't open its keyring makes no other vault trusted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from modelvault import canonical
from modelvault.client.pins import read_trust, write_private
from modelvault.crypto import dsse
from modelvault.crypto.dsse import Envelope
from modelvault.errors import Conflict, IntegrityError, InvalidRequest, NotFound, Unavailable
from modelvault.record import MAX_TRUST, TRUSTED_TYPE, TrustedRecord, TrustFile
from modelvault.wiring.home import Home

if TYPE_CHECKING:
    from modelvault.ports.keys import Signer

_LIMIT = 4 * MAX_TRUST


def of(paths: Sequence[Path], own: str) -> dict[str, TrustFile]:
    """By vault. Raises NotFound (`no_trust_file`), IntegrityError, InvalidRequest
    (`bad_deployment`) where a vault stands twice, or is this one."""
    found: dict[str, TrustFile] = {}
    for path in paths:
        trust = read_trust(path)
        if trust.vault == own or trust.vault in found:
            raise InvalidRequest(
                "bad_deployment",
                f"[copies] trusted: {path} is of "
                + ("this vault itself" if trust.vault == own else "a vault that is named already"),
                "name one trust file for each other vault",
            )
        found[trust.vault] = trust
    return found


def read(home: Home, own: TrustFile) -> dict[str, TrustFile]:
    """What a home's owner has pinned, by vault.

    Raises IntegrityError (`trusted_altered`) for a record that isn't this vault's own.
    """
    found: dict[str, TrustFile] = {}
    for path in sorted(home.trusted.glob("*.json")):
        try:
            envelope = Envelope.from_bytes(path.read_bytes(), limit=_LIMIT, what=str(path))
            payload = dsse.verify(envelope, TRUSTED_TYPE, own.keys_for("record"), str(path))
            record = canonical.decode(payload, TrustedRecord, limit=_LIMIT, what=str(path))
        except OSError as error:
            raise Unavailable(
                "cant_read", f"can't read {path}: {os.strerror(error.errno or 0)}", "check it"
            ) from None
        except IntegrityError:
            raise _altered(path) from None
        if record.vault != own.vault or path.stem != record.trusted.vault:
            raise _altered(path)
        found[record.trusted.vault] = record.trusted
    return found


def pin(home: Home, own: TrustFile, signer: Signer, other: TrustFile) -> None:
    """Sign and keep the trust file of another vault.

    Raises InvalidRequest (`same_vault`), Conflict (`older_trust_file`), Unavailable (`cant_write`).
    """
    if other.vault == own.vault:
        raise InvalidRequest("same_vault", "that is this vault's own trust file", "name another")
    stands = read(home, own).get(other.vault)
    if stands is not None and stands.serial > other.serial:
        raise Conflict(
            "older_trust_file",
            f"the trust file that is pinned has serial {stands.serial}, this one {other.serial}",
            "get that vault's newest trust file",
        )
    record = TrustedRecord(vault=own.vault, trusted=other)
    envelope = dsse.sign(TRUSTED_TYPE, canonical.encode(record), partial(signer.sign, "record"))
    try:
        home.trusted.mkdir(mode=0o700, exist_ok=True)
        write_private(home.trusted / f"{other.vault}.json", envelope.to_bytes())
    except OSError as error:
        raise _unwritable(home, error) from None


def unpin(home: Home, own: TrustFile, vault: str) -> None:
    """Take away what `pin` has kept.

    Raises NotFound (`not_pinned`), Unavailable (`cant_write`), IntegrityError as `read`.
    """
    if vault not in read(home, own):
        raise NotFound(
            "not_pinned",
            f"no trust file of vault {vault} is pinned here",
            "`modelvault trust pins` lists those that are",
        )
    try:
        (home.trusted / f"{vault}.json").unlink()
    except OSError as error:
        raise _unwritable(home, error) from None


def _unwritable(home: Home, error: OSError) -> Unavailable:
    return Unavailable(
        "cant_write",
        f"can't write to {home.trusted}: {os.strerror(error.errno or 0)}",
        "check the folder's permissions and the free space",
    )


def _altered(path: Path) -> IntegrityError:
    return IntegrityError(
        "trusted_altered",
        f"{path} isn't what this vault's owner has pinned",
        "somebody put it there: remove it, and pin that vault's trust file again if it should be",
    )
