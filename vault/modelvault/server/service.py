"""What an HTTP server is put together from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from modelvault.errors import InvalidRequest
from modelvault.ports.broker import Broker, Steward
from modelvault.server.metrics import Metrics

# A part's name, and None where it is well, else what is wrong in a few words.
States = Mapping[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """`steward` is None where only the broker's calls are served, and the other way round.

    `states` tells how each part is, for readiness; `bundle(revision)` gives the archive of the
    policy in force to OPA, which must show `bundle_token`; `revision` names that policy. `draining`
    turns true when the server begins to stop.

    Raises InvalidRequest (`bad_deployment`) for a bundle without a token: a policy tells everybody
    who reads it whom to become.
    """

    broker: Broker | None
    steward: Steward | None
    states: Callable[[], States]
    metrics: Metrics
    revision: Callable[[], str | None]
    bundle: Callable[[str], bytes] | None = None
    bundle_token: str | None = field(default=None, repr=False)
    proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    draining: Callable[[], bool] = field(default=lambda: False)

    def __post_init__(self) -> None:
        if self.bundle is not None and not self.bundle_token:
            raise InvalidRequest(
                "bad_deployment",
                "OPA's bundle would be open to everybody",
                "name a file with a token for OPA in [policy] bundle_token_file",
            )
