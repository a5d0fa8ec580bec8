"""What only the owner of an embedded vault's home can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modelvault.client.context import Context
from modelvault.client.local import Local
from modelvault.errors import InvalidRequest
from modelvault.record import TrustFile


class Owning:
    """The owner's part of a Session; each raises InvalidRequest (`not_embedded`) for others."""

    _context: Context
    _local: Local | None

    def publish_policy(self) -> str:
        """Put the home's edited policies into force; returns their revision.

        Raises InvalidRequest for policies that can't be used, AccessDenied and `policy_lockout`
        as the steward does.
        """
        revision = self._owner().freeze_policy()
        self._context.steward.publish_policy(self._context.credentials.caller(), revision)
        return revision

    def pin_trust(self, other: TrustFile) -> None:
        """Let another vault give and get versions, by the trust file that came from its admin.

        Raises InvalidRequest (`same_vault`), Conflict (`older_trust_file`).
        """
        self._owner().pin(other)

    def unpin_trust(self, vault: str) -> None:
        """Let it no longer. Raises NotFound (`not_pinned`)."""
        self._owner().unpin(vault)

    def pinned_trust(self) -> tuple[TrustFile, ...]:
        """The vaults that are pinned, by their trust files."""
        return tuple(self._owner().pinned().values())

    def mint_token(
        self,
        *,
        sub: str | None = None,
        groups: Sequence[str] | None = None,
        lifetime_s: int = 900,
        claims: Mapping[str, object] | None = None,
        key_hash: str | None = None,
    ) -> str:
        """A short token of the embedded vault's own issuer; the default identity unless named.

        Whoever has the home and its root key can say to be anybody: see the threat model.
        """
        return self._owner().mint(
            sub=sub, groups=groups, lifetime_s=lifetime_s, claims=claims or {}, key_hash=key_hash
        )

    def _owner(self) -> Local:
        if self._local is None:
            raise InvalidRequest(
                "not_embedded",
                "only the home of an embedded vault can do this",
                "name a home (--home), or ask the admin of the broker",
            )
        return self._local
