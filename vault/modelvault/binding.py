"""What sealed file keys are bound to: the HPKE `info` (docs/format.md, section 4).

Broker and loader each build it from what they know by themselves: the broker from its ledger, the
loader from its own ask and the manifest that it verified. Where the two differ in anything, the
sealed keys don't open.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

from modelvault import canonical
from modelvault.copies import Invitation
from modelvault.lease import Recipient
from modelvault.manifest import CopiedFrom


def info(
    kind: Literal["lease", "push"],
    vault: str,
    lease: str,
    tenant: str,
    model: str,
    version: int,
    manifest: str | None,
    purpose: str,
    paths: Sequence[str],
    recipient: Recipient,
    nonce: bytes,
) -> bytes:
    """The HPKE info, as canonical JSON of a few hundred bytes.

    For a push `lease` is the upload's id, `version` 0, `manifest` None and `purpose` `push`.
    `paths` are those whose keys are sealed, in that order. `nonce` stands as lowercase hex.
    """
    return canonical.dumps(
        {
            "v": 1,
            "kind": kind,
            "vault": vault,
            "lease": lease,
            "tenant": tenant,
            "model": model,
            "version": version,
            "manifest": manifest,
            "purpose": purpose,
            "paths": _sha256(canonical.dumps(list(paths))),
            "suite": recipient.suite,
            "nonce": nonce.hex(),
            "recipient": _sha256(recipient.public_key),
        }
    )


def copy_info(source: CopiedFrom, to: Invitation, artifacts: Sequence[str]) -> bytes:
    """The HPKE info of DEKs that one vault hands over to another (docs/format.md, section 8).

    `artifacts` are those whose DEKs are sealed, in that order. The giver takes `to` from the
    invitation that it verified, the receiver from its own pending import.
    """
    return canonical.dumps(
        {
            "v": 1,
            "kind": "copy",
            "source": {
                "vault": source.vault,
                "tenant": source.tenant,
                "model": source.model,
                "version": source.version,
                "manifest": source.manifest,
            },
            "destination": {
                "vault": to.vault,
                "tenant": to.tenant,
                "model": to.model,
                "upload": to.upload,
            },
            "artifacts": _sha256(canonical.dumps(list(artifacts))),
            "suite": to.recipient.suite,
            "nonce": to.nonce.hex(),
            "recipient": _sha256(to.recipient.public_key),
        }
    )


def _sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
