"""Where the key service is, and a client for one login to it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import hvac
import msgspec
import requests
from requests.adapters import HTTPAdapter

from modelvault.errors import InvalidRequest

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """`address` is http(s)://host:port; plain http is taken on loopback only, since data keys come
    back in the answers. `mount` is where transit is mounted. `ca`, `certificate` and `key` are PEM
    files. `timeout_s` bounds the wait for a connection and for each answer."""

    address: str
    mount: str = "modelvault"
    namespace: str | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    timeout_s: float = 5.0

    def __post_init__(self) -> None:
        url = urlsplit(self.address)
        if url.scheme not in {"http", "https"} or not url.hostname or url.path.strip("/"):
            raise _bad(self.address, "it isn't http(s)://host:port")
        if url.scheme == "http" and url.hostname not in _LOOPBACK:
            raise _bad(self.address, "without TLS it must be on loopback")

    def client(self, token: str = "") -> hvac.Client:
        """A client of its own, with its own connections.

        A token is always set, or hvac would look for one in the environment and the home folder.
        """
        session = requests.Session()
        session.trust_env = False  # no proxy, no CA and no .netrc out of the environment
        session.verify = str(self.ca) if self.ca else True
        session.max_redirects = 0
        if self.certificate is not None and self.key is not None:
            session.cert = (str(self.certificate), str(self.key))
        transport = HTTPAdapter(pool_maxsize=64, max_retries=0)
        session.mount("https://", transport)
        session.mount("http://", transport)
        return hvac.Client(
            url=self.address.rstrip("/"),
            token=token,
            timeout=self.timeout_s,
            session=session,
            namespace=self.namespace,
            allow_redirects=False,  # a standby's redirect would send the token somewhere else
        )


def _bad(address: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        "bad_key_service", f"the address {address!r} can't be used: {why}", "mend [keys] address"
    )
