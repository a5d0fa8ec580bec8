"""A session with an embedded vault."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from modelvault import clock as clocks
from modelvault.client.context import Context
from modelvault.client.credentials import Credentials, TokenSource, choose
from modelvault.client.direct import Direct
from modelvault.client.local import Local
from modelvault.client.pins import Pins
from modelvault.client.session import Session
from modelvault.errors import AuthenticationError, unframed
from modelvault.identity import binding, mint
from modelvault.identity.issuer import LOCAL, local_issuer
from modelvault.record import Entry, TrustFile
from modelvault.settings import Settings
from modelvault.wiring import trusted
from modelvault.wiring.embedded import Parts, open_parts
from modelvault.wiring.home import Home
from modelvault.wiring.roots import Ask

# Long enough for a request that waits for a lock, short enough to be worth nothing when stolen.
REQUEST_TOKEN_S = 120
CLIENT = "modelvault/embedded"


def session(home: Home, settings: Settings, ask: Ask | None) -> Session:
    """Open the vault in `home` and speak to it in this process."""
    parts = open_parts(home, settings, ask)
    try:
        return _joined(home, settings, parts)
    except BaseException:
        parts.close()
        raise


def _joined(home: Home, settings: Settings, parts: Parts) -> Session:
    minting = _Minting(parts)
    source = _source(settings, minting)
    context = Context(
        broker=parts.broker,
        steward=parts.broker,
        places=Direct(parts.store),
        credentials=Credentials(source, CLIENT),
        trust=parts.trust,
        pins=Pins(home.pins, parts.described.vault),
        clock=clocks.boot_ms,
        threads=settings.threads,
    )
    local = Local(
        mint=minting,
        freeze_policy=lambda: parts.policies.publish(parts.policies.working()),
        pin=lambda other: _pin(parts, other),
        pinned=lambda: parts.trusted,
        unpin=lambda vault: _unpin(parts, vault),
    )
    return Session(context, local, parts.close)


def _pin(parts: Parts, other: TrustFile) -> None:
    """Pinned for later sessions and this one, and told in the audit log."""
    trusted.pin(parts.home, parts.trust, parts.keyring, other)
    parts.trusted[other.vault] = other
    _tell(parts, {"other_vault": other.vault, "serial": other.serial})


def _unpin(parts: Parts, vault: str) -> None:
    """As `_pin`, the other way round."""
    trusted.unpin(parts.home, parts.trust, vault)
    parts.trusted.pop(vault, None)
    _tell(parts, {"other_vault": vault, "serial": None})


def _tell(parts: Parts, details: dict[str, str | int | bool | None]) -> None:
    entry = Entry(
        id=secrets.token_hex(16),
        at=clocks.to_text(clocks.utc_ms()),
        actor=f"{LOCAL}:{parts.described.identity.sub}",
        action="trust",
        outcome="done",
        details=details,
    )
    parts.ledger.append(entry)


def _source(settings: Settings, minting: _Minting) -> TokenSource:
    try:
        return choose(
            token=settings.token, token_file=settings.token_file, mint=minting.for_request
        )
    except AuthenticationError as refused:
        raise unframed(refused) from None


class _Minting:
    """Tokens of the home's own issuer."""

    def __init__(self, parts: Parts) -> None:
        self._signer = parts.keyring
        self._vault = parts.described.vault
        self._issuer = local_issuer(self._vault)
        self._identity = parts.described.identity

    def __call__(
        self,
        *,
        sub: str | None,
        groups: Sequence[str] | None,
        lifetime_s: int,
        claims: Mapping[str, object],
        key_hash: str | None,
    ) -> str:
        """See `client.local.Mint`."""
        return mint.mint(
            self._signer,
            self._issuer,
            sub=self._identity.sub if sub is None else sub,
            groups=self._groups(sub, groups),
            audience=(
                binding.plain_audience(self._vault)
                if key_hash is None
                else binding.bound_audience(self._vault, key_hash)
            ),
            lifetime_s=lifetime_s,
            now=clocks.utc_ms(),
            claims=claims,
        )

    def for_request(self, key_hash: str | None) -> str:
        """A token of the default identity for one request, bound to its key where it has one."""
        return self(sub=None, groups=None, lifetime_s=REQUEST_TOKEN_S, claims={}, key_hash=key_hash)

    def _groups(self, sub: str | None, groups: Sequence[str] | None) -> Sequence[str]:
        # Another subject starts with no groups: naming somebody must not make them an admin.
        if groups is not None:
            return groups
        return self._identity.groups if sub is None else ()
