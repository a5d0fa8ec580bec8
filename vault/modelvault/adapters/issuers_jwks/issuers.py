"""The keys of all issuers of a configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from modelvault.adapters.issuers_jwks.document import Keys, parse
from modelvault.adapters.issuers_jwks.fetching import Fetch, NotFetched, fetcher
from modelvault.adapters.issuers_jwks.kept import KeptKeys
from modelvault.clock import Clock
from modelvault.errors import AuthenticationError
from modelvault.identity.issuer import Issuer
from modelvault.identity.presets import Trusted
from modelvault.ports.identity import VerifyingKey


class JwksIssuers:
    """IssuerKeys: JWKS documents fetched from where the configuration says.

    Fetching starts at once, in the background. Thread-safe; `clock` is one that never jumps
    (`clock.boot_ms`). Raises InvalidRequest (`bad_issuers`) for an address that isn't https (or
    on loopback), and for a CA that can't be read.
    """

    def __init__(self, trusted: Iterable[Trusted], clock: Clock) -> None:
        fetchers = [(one, fetcher(one, clock)) for one in trusted]
        self._kept = {
            one.issuer.iss: KeptKeys(one.issuer.name, _keys(one.issuer, fetch), one.keys, clock)
            for one, fetch in fetchers
        }

    def key(self, issuer: str, kid: str | None) -> VerifyingKey:
        """See ports.identity.IssuerKeys. Waits for a fetch only where no keys are known yet, and
        at times for an unknown `kid`; ten seconds at most."""
        kept = self._kept.get(issuer)
        if kept is None:
            raise AuthenticationError(
                "unknown_signing_key",
                "the token is from an issuer whose keys this vault doesn't have",
                "add the issuer to the vault's configuration",
            )
        return kept.key(kid)

    def close(self) -> None:
        """Stop fetching. Idempotent."""
        for kept in self._kept.values():
            kept.close()


def _keys(issuer: Issuer, fetch: Fetch) -> Callable[[], Keys]:
    def keys() -> Keys:
        try:
            return parse(fetch(), issuer.algorithms)
        except ValueError as why:
            raise NotFetched(f"the document can't be used: {why}") from None

    return keys
