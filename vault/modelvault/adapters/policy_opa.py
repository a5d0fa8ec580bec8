"""The policy engine as an OPA server, by opa-python-client.

The client has no bound on an answer's size or on a body that drips, retries by itself, and reads
proxies and CA settings from the environment; so its session gets a transport of ours. Everything
that isn't a JSON object with the rule's value and the bundle's revision is `policy_unavailable`.
"""

from __future__ import annotations

import io
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import requests
from opa_client.opa import OpaClient
from requests.adapters import HTTPAdapter

from modelvault.access import Evaluation
from modelvault.clock import Clock, boot_ms
from modelvault.errors import InvalidRequest, Unavailable, sealed

PACKAGE = "modelvault.authz"
RULE = "decision"
BUNDLE = "modelvault"
MAX_ANSWER_BYTES = 1 << 20
SETTLE_S = 3.0
_POLL_S = 0.05
# By itself OPA takes a builtin's error for undefined: behind a `not` that would be a yes.
_ASKED = {"provenance": "true", "strict-builtin-errors": "true"}

Pause = Callable[[float], None]


class OpaAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where OPA listens. `token_file` holds the bearer token that its `system.authz` takes, and is
    read anew whenever it has changed; `ca` is a PEM file. Without TLS only loopback is taken: a
    question tells who uses which model, and a forged answer would be a grant."""

    address: str
    token_file: Path | None = None
    ca: Path | None = None
    deadline_s: float = 1.0


class OpaEngine:
    """`data.modelvault.authz.decision` at an OPA server that has loaded a signed bundle.

    Any number of threads may ask at once. `revision` is the one that the ledger names: while the
    server still holds another, a question waits up to `settle_s` for it to fetch the new bundle.
    """

    def __init__(
        self,
        server: OpaAddress,
        revision: str,
        *,
        settle_s: float = SETTLE_S,
        clock: Clock = boot_ms,
        pause: Pause = time.sleep,
    ) -> None:
        self._server = server
        self._revision = revision
        self._settle_ms = round(settle_s * 1000)
        self._clock = clock
        self._pause = pause
        self._client = _client(server, clock)

    @sealed
    def evaluate(self, document: dict[str, Any]) -> Evaluation:
        """The rule's value, unexamined but for being an object, and its bundle's revision.

        Raises Unavailable (`policy_unavailable`), after `deadline_s` and `settle_s` at the latest.
        """
        until = self._clock() + self._settle_ms
        while True:
            answer = self._ask(document)
            if _revision(answer) == self._revision or self._clock() >= until:
                return _evaluation(answer)
            self._pause(_POLL_S)

    def close(self) -> None:
        """Let go of the connections."""
        self._client._session.close()

    def _ask(self, document: dict[str, Any]) -> dict[str, Any]:
        try:
            answer: object = self._client.query_rule(
                input_data=document,
                package_path=PACKAGE,
                rule_name=RULE,
                query_params=_ASKED,
            )
        except requests.HTTPError as refused:
            status = "?" if refused.response is None else refused.response.status_code
            raise _unavailable(f"it answered with status {status}") from None
        except requests.ConnectionError:
            raise _unavailable("it can't be reached") from None
        except (requests.RequestException, OSError):
            raise _unavailable(f"no answer within {self._server.deadline_s:g} s") from None
        except (ValueError, RecursionError):
            raise _unavailable("its answer isn't JSON") from None
        if not isinstance(answer, dict):
            raise _unavailable("its answer isn't an object")
        return answer


def _evaluation(answer: dict[str, Any]) -> Evaluation:
    revision = _revision(answer)
    if revision is None:
        raise _unavailable("it has loaded no bundle, or doesn't say which one")
    if not isinstance(answer.get("result"), dict):
        # OPA says so with status 200 and without a result where the rule is undefined.
        raise _unavailable("it has no decision to give, or one that isn't an object")
    named = answer.get("decision_id")
    decision_id = named if isinstance(named, str) and 0 < len(named) <= 128 else None
    return Evaluation(answer["result"], revision, decision_id or secrets.token_hex(16))


def _revision(answer: dict[str, Any]) -> str | None:
    value: object = answer
    for key in ("provenance", "bundles", BUNDLE, "revision"):
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None


class _Transport(HTTPAdapter):
    """Sends one request once, with a fresh token, and takes one small answer in time."""

    def __init__(self, server: OpaAddress, clock: Clock) -> None:
        super().__init__(pool_maxsize=64, max_retries=0)
        self._server = server
        self._clock = clock
        self._token = None if server.token_file is None else _Token(server.token_file)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token.read()}"
        kwargs["stream"] = True
        until = self._clock() + round(self._server.deadline_s * 1000)
        response = super().send(request, *args, **kwargs)
        response.raw = io.BytesIO(self._body(response, until))
        return response

    def _body(self, response: requests.Response, until: int) -> bytes:
        body = bytearray()
        try:
            while part := response.raw.read1(1 << 16, decode_content=True):
                body += part
                if len(body) > MAX_ANSWER_BYTES:
                    raise ValueError("too long an answer")
                if self._clock() > until:
                    raise requests.Timeout
        finally:
            response.raw.release_conn()
        return bytes(body)


def _client(server: OpaAddress, clock: Clock) -> OpaClient:
    url = urlsplit(server.address)
    host = url.hostname
    if url.scheme not in {"http", "https"} or not host or url.path not in {"", "/"}:
        raise _bad(server.address, "it isn't http(s)://host:port")
    if url.scheme == "http" and host not in {"127.0.0.1", "localhost", "::1"}:
        raise _bad(server.address, "without TLS it must be on loopback")
    client = OpaClient(
        host=f"[{host}]" if ":" in host else host,
        port=url.port or (443 if url.scheme == "https" else 8181),
        ssl=(str(server.ca) if server.ca else True) if url.scheme == "https" else False,
        retries=0,
        timeout=server.deadline_s,
    )
    session = client._session
    session.trust_env = False  # no proxy and no CA out of the environment
    session.max_redirects = 0
    session.mount(f"{url.scheme}://", _Transport(server, clock))
    return client


class _Token:
    """What stands in a file, read anew whenever it is another file or was written to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: tuple[object, str] | None = None

    def read(self) -> str:
        try:
            found = self._path.stat()
            now = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            known = self._known
            if known is None or known[0] != now:
                known = (now, self._path.read_text("ascii").strip())
                self._known = known
            return known[1]
        except (OSError, UnicodeDecodeError):
            raise _unavailable(f"its token can't be read from {self._path}") from None


def _bad(address: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        "bad_policy_server", f"OPA's address {address!r} can't be used: {why}", "mend [policy.opa]"
    )


def _unavailable(why: str) -> Unavailable:
    return Unavailable(
        "policy_unavailable",
        f"the policy server gives no answer: {why}",
        "see whether OPA runs and has loaded the bundle: its /health?bundles and its log",
    )
