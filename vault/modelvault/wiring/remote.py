"""A session with a broker: nothing in this process but its own token and the trust file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from modelvault import clock as clocks
from modelvault.client.context import Cache, Context
from modelvault.client.credentials import Credentials, choose
from modelvault.client.pins import Pins, read_trust
from modelvault.client.session import Session
from modelvault.errors import AuthenticationError, NotFound, unframed
from modelvault.settings import Settings
from modelvault.wiring.identity import further_source

LEAST_THREADS = 4  # requests to a store wait for one another more than for the processor


def session(url: str, settings: Settings) -> Session:
    """Speak to the broker at `url`. No request is made yet.

    Raises InvalidRequest (`bad_broker`, `bad_tls_files`), NotFound (`no_trust_file`),
    AuthenticationError (`no_token`).
    """
    from modelvault.adapters.broker_http import Address, Connection, RemoteBroker
    from modelvault.adapters.objects_http import HttpPlaces
    from modelvault.adapters.objects_http.transport import Transport

    address = Address(url=url, ca=settings.ca, certificate=settings.certificate, key=settings.key)
    trust = read_trust(trust_path(settings))
    credentials = _credentials(settings, trust.vault)
    threads = max(settings.threads, LEAST_THREADS)
    broker = RemoteBroker(Connection(address))
    transport = Transport(ca=settings.store_ca or settings.ca, connections=4 * threads)
    context = Context(
        broker=broker,
        steward=broker,
        places=HttpPlaces(broker, credentials.caller, transport, clocks.boot_ms, threads),
        credentials=credentials,
        trust=trust,
        pins=Pins(_memory(settings, trust.vault), trust.vault),
        clock=clocks.boot_ms,
        threads=threads,
        journals=settings.state_home / trust.vault / "uploads",
        cache=_cache(settings),
    )

    def close() -> None:
        broker.close()
        transport.close()

    return Session(context, close=close)


def _cache(settings: Settings) -> Cache | None:
    from modelvault.adapters.objects_cached import SegmentCache

    return None if settings.cache is None else SegmentCache(settings.cache, settings.cache_size)


def _memory(settings: Settings, vault: str) -> Path:
    """Where what was seen is kept. A job without a folder of its own keeps it while it runs: it
    trusts its broker for freshness, as docs/threat-model.md says."""
    folder = settings.state_home / vault
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / "pins.json"


def trust_path(settings: Settings) -> Path:
    """Where the pinned trust file is. Raises NotFound (`no_trust_file`)."""
    path = settings.trust or settings.config_home / "trust.json"
    if not path.exists():
        raise NotFound(
            "no_trust_file",
            f"there is no trust file at {path}",
            "get it from the vault's admin by another way than the broker, and name it with "
            "MODELVAULT_TRUST or the profile's `trust`",
        )
    return path


def _credentials(settings: Settings, vault: str) -> Credentials:
    from importlib.metadata import version

    try:
        source = choose(
            token=settings.token,
            token_file=settings.token_file,
            further=further_source(settings, vault),
        )
    except AuthenticationError as refused:
        raise unframed(refused) from None
    return Credentials(source, f"modelvault/{version('encrypted-model-vault')}")
