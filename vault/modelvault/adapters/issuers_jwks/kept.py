"""Issuers' public keys out of the JWKS documents (RFC 7517) that the configuration names.

Once an issuer's keys are known no request waits for it: they are fetched anew in the background,
and while that fails the known ones count on, for a bounded time. A key id that isn't known makes
one fetch, and not more often than every few seconds, however many tokens name one: a flood of
invented ids doesn't reach the issuer. Nothing is ever fetched from where a token points.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import jwt
import msgspec
import urllib3
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from urllib3.exceptions import HTTPError

from modelvault.clock import Clock, boot_ms
from modelvault.errors import AuthenticationError, InvalidRequest, Unavailable
from modelvault.identity.issuer import Algorithm
from modelvault.ports.identity import VerifyingKey

MAX_DOCUMENT = 1 << 20
MAX_KEYS = 64
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_CURVES = {"P-256": "ES256", "P-384": "ES384"}
_MIN_RSA_BITS = 2048


class JwksSource(msgspec.Struct, frozen=True, kw_only=True):
    """Where one issuer's keys are. https, or http on loopback; `ca` is a PEM file.

    `algorithms` are those that the issuer may sign with. Keys are fetched anew every `refresh_s`,
    and count for `stale_s` beyond the last success; an unknown id makes a fetch at most every
    `pause_s`.
    """

    url: str
    algorithms: tuple[Algorithm, ...]
    ca: Path | None = None
    refresh_s: float = 300.0
    stale_s: float = 86_400.0
    pause_s: float = 10.0
    timeout_s: float = 3.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        plain = parts.scheme == "http" and parts.hostname in _LOOPBACK
        if not parts.hostname or (parts.scheme != "https" and not plain):
            raise InvalidRequest(
                "bad_issuers", "a JWKS address must be https://", "mend [[issuers]] jwks"
            )


class JwksIssuers:
    """`IssuerKeys`. Thread-safe. `close` ends the background fetches."""

    def __init__(self, sources: Mapping[str, JwksSource], clock: Clock = boot_ms) -> None:
        """`sources` by exact `iss`."""
        self._issuers = {iss: _Issuer(source, clock) for iss, source in sources.items()}

    def key(self, issuer: str, kid: str | None) -> VerifyingKey:
        """The key `kid`; without a `kid` the issuer's only key, if it has just one."""
        found = self._issuers.get(issuer)
        if found is None:
            raise _unknown()
        return found.key(kid)

    def close(self) -> None:
        """Let go of the connections; fetches that are under way end by themselves."""
        for issuer in self._issuers.values():
            issuer.close()


class _Issuer:
    def __init__(self, source: JwksSource, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._pool = _pool(source)
        self._lock = threading.Lock()
        self._keys: dict[str, VerifyingKey] = {}
        self._fetched_at: int | None = None  # the last success
        self._tried_at: int | None = None
        self._fetching = threading.Lock()

    def key(self, kid: str | None) -> VerifyingKey:
        now = self._clock()
        with self._lock:
            keys, fetched_at, tried_at = self._keys, self._fetched_at, self._tried_at
        if fetched_at is None or now - fetched_at > self._ms(self._source.stale_s):
            return self._after_fetch(kid, tried_at, now, known=False)
        found = _find(keys, kid)
        if found is None:
            return self._after_fetch(kid, tried_at, now, known=True)
        if now - fetched_at > self._ms(self._source.refresh_s):
            self._refresh(now, tried_at)
        return found

    def close(self) -> None:
        self._pool.clear()

    def _after_fetch(
        self, kid: str | None, tried_at: int | None, now: int, *, known: bool
    ) -> VerifyingKey:
        """The key, once the issuer has been asked: by this thread or by another meanwhile."""
        with self._fetching:
            with self._lock:
                newest = self._tried_at
            if newest == tried_at and self._may_try(newest, now):
                self._fetch(now)
        with self._lock:
            keys, fetched_at = self._keys, self._fetched_at
        stale = fetched_at is None or now - fetched_at > self._ms(self._source.stale_s)
        if stale and not known:
            raise _unavailable()
        found = _find(keys, kid)
        if found is None:
            raise _unknown()
        return found

    def _refresh(self, now: int, tried_at: int | None) -> None:
        """In the background, one at a time."""
        if not self._may_try(tried_at, now) or not self._fetching.acquire(blocking=False):
            return

        def work() -> None:
            try:
                self._fetch(now)
            finally:
                self._fetching.release()

        try:
            threading.Thread(target=work, name="modelvault-jwks", daemon=True).start()
        except RuntimeError:
            self._fetching.release()

    def _may_try(self, tried_at: int | None, now: int) -> bool:
        return tried_at is None or now - tried_at >= self._ms(self._source.pause_s)

    def _fetch(self, now: int) -> None:
        """Replace the keys by what the issuer has now; on any failure the known ones stay."""
        with self._lock:
            self._tried_at = now
        try:
            keys = parse(self._get(), self._source.algorithms)
        except (ValueError, HTTPError, OSError):
            return
        with self._lock:
            self._keys, self._fetched_at = keys, now

    def _get(self) -> bytes:
        answer = self._pool.request(
            "GET", self._source.url, redirect=False, preload_content=False, retries=False
        )
        try:
            data = answer.read(MAX_DOCUMENT + 1)
            if answer.status != 200 or len(data) > MAX_DOCUMENT:
                raise ValueError("no key set")
            return data
        finally:
            answer.close()

    @staticmethod
    def _ms(seconds: float) -> int:
        return round(seconds * 1000)


class _Jwk(msgspec.Struct):
    kty: Literal["RSA", "EC", "OKP"]
    kid: str
    use: str | None = None
    alg: str | None = None
    crv: str | None = None
    key_ops: list[str] | None = None


class _Document(msgspec.Struct):
    keys: list[dict[str, Any]]


def parse(document: bytes, algorithms: Sequence[Algorithm]) -> dict[str, VerifyingKey]:
    """{kid: key} of the public signing keys in a JWKS that fit `algorithms`; others are left out.

    Raises ValueError for what isn't a key set, or has no usable key: that is no reason to forget
    those that are known.
    """
    try:
        listed = msgspec.json.decode(document, type=_Document).keys
    except (msgspec.MsgspecError, RecursionError):
        raise ValueError("not a key set") from None
    if len(listed) > MAX_KEYS:
        raise ValueError("too many keys")
    keys: dict[str, VerifyingKey] = {}
    for each in listed:
        found = _key(each, algorithms)
        if found is not None:
            if found[0] in keys:
                raise ValueError("two keys of one id")
            keys[found[0]] = found[1]
    if not keys:
        raise ValueError("no usable key")
    return keys


def _key(
    document: dict[str, Any], algorithms: Sequence[Algorithm]
) -> tuple[str, VerifyingKey] | None:
    try:
        named = msgspec.convert(document, _Jwk)
    except msgspec.ValidationError:
        return None
    if "d" in document or named.use not in {None, "sig"}:
        return None
    if named.key_ops is not None and "verify" not in named.key_ops:
        return None
    algorithm = _algorithm(named, algorithms)
    if algorithm is None:
        return None
    try:
        public = jwt.PyJWK(document, algorithm).key
        if named.kty == "RSA" and public.key_size < _MIN_RSA_BITS:
            return None
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
        return None
    return named.kid, VerifyingKey(algorithm, pem)


def _algorithm(named: _Jwk, algorithms: Sequence[Algorithm]) -> Algorithm | None:
    """The one algorithm that a key may verify: its own word where it has one, as far as that fits
    its kind and the issuer's configuration."""
    if named.kty == "EC":
        fitting = {_CURVES.get(named.crv or "")}
    elif named.kty == "OKP":
        fitting = {"EdDSA"} if named.crv == "Ed25519" else set()
    else:
        fitting = {"RS256", "PS256"}
    if named.alg is not None:
        fitting &= {named.alg}
    allowed = [each for each in algorithms if each in fitting]
    return allowed[0] if allowed else None


def _find(keys: Mapping[str, VerifyingKey], kid: str | None) -> VerifyingKey | None:
    if kid is None:
        return next(iter(keys.values())) if len(keys) == 1 else None
    return keys.get(kid)


def _pool(source: JwksSource) -> urllib3.PoolManager:
    try:
        context = ssl.create_default_context(cafile=str(source.ca) if source.ca else None)
    except (OSError, ssl.SSLError):
        raise InvalidRequest(
            "bad_issuers", f"the CA {source.ca} can't be read", "mend [[issuers]] ca"
        ) from None
    return urllib3.PoolManager(
        maxsize=1,
        timeout=urllib3.Timeout(connect=source.timeout_s, read=source.timeout_s),
        ssl_context=context,
    )


def _unknown() -> AuthenticationError:
    return AuthenticationError(
        "unknown_signing_key",
        "the token names a signing key that its issuer doesn't have",
        "get a fresh token; keys that an issuer has just made are known after some seconds",
    )


def _unavailable() -> Unavailable:
    return Unavailable(
        "issuer_unavailable",
        "the issuer's signing keys can't be had",
        "check that the brokers reach its JWKS address; running leases live on meanwhile",
    )
