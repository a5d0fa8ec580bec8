"""Login with a browser on this machine: code flow with PKCE (RFC 7636), and the answer taken on a
loopback port (RFC 8252, section 7.3)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import queue
import secrets
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NoReturn
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec

from modelvault.adapters.oidc_login.provider import Metadata, OidcProvider, failed, refused
from modelvault.adapters.oidc_login.transport import bad_login
from modelvault.errors import ModelVaultError, unframed
from modelvault.ports.login import Granted
from modelvault.settings import Login

WAIT_S = 300.0
CALLBACK = "/callback"

_DONE = b"<!doctype html><title>modelvault</title><p>You can close this window.</p>"
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Connection": "close",
}


class _Ask(msgspec.Struct, frozen=True):
    """What ties the answer to this login: nobody else knows any of it."""

    state: str
    nonce: str
    verifier: str
    redirect: str

    def __repr__(self) -> str:
        return "<a login under way>"

    def challenge(self) -> str:
        digest = hashlib.sha256(self.verifier.encode("ascii")).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


class _Answer(dict[str, str]):
    """The parameters of the provider's answer; the repr shows no code."""

    def __repr__(self) -> str:
        return "<an answer>"


def log_in_by_browser(
    provider: OidcProvider, show: Callable[[str], None], wait_s: float = WAIT_S
) -> Granted:
    """Show the address to open in a browser on this machine, and wait for the answer.

    Raises AuthenticationError (`login_failed`), Unavailable, InvalidRequest (`bad_login`) where
    the provider doesn't do this.
    """
    try:
        return _logged_in(provider, show, wait_s)
    except ModelVaultError as refusal:
        raise unframed(refusal) from None


def _logged_in(provider: OidcProvider, show: Callable[[str], None], wait_s: float) -> Granted:
    metadata = provider.metadata()
    if metadata.authorization_endpoint is None:
        raise bad_login("the provider has no login by browser; log in with --device")
    if "S256" not in metadata.code_challenge_methods_supported:
        raise bad_login("the provider doesn't do PKCE with S256")
    state = secrets.token_urlsafe(32)
    with _Listener(state) as listener:
        ask = _Ask(
            state=state,
            nonce=secrets.token_urlsafe(32),
            verifier=secrets.token_urlsafe(48),
            redirect=listener.redirect,
        )
        show(_address(metadata.authorization_endpoint, ask, provider.login))
        answer = listener.answer(wait_s)
    _check(answer, metadata)
    form = {
        "grant_type": "authorization_code",
        "code": answer.get("code", ""),
        "redirect_uri": ask.redirect,
        "code_verifier": ask.verifier,
        "client_id": provider.login.client_id,
    }
    status, tokens = provider.transport.post(metadata.token_endpoint, form)
    if status != 200:
        raise refused(tokens)
    return provider.granted(tokens, ask.nonce)


def _address(endpoint: str, ask: _Ask, login: Login) -> str:
    query = {
        "response_type": "code",
        "client_id": login.client_id,
        "redirect_uri": ask.redirect,
        "scope": " ".join(login.scopes),
        "state": ask.state,
        "nonce": ask.nonce,
        "code_challenge": ask.challenge(),
        "code_challenge_method": "S256",
    }
    if login.resource is not None:
        query["resource"] = login.resource
    joint = "&" if urlsplit(endpoint).query else "?"
    return f"{endpoint}{joint}{urlencode(query)}"


def _check(answer: Mapping[str, str], metadata: Metadata) -> None:
    """RFC 9207: an answer of another provider than the one that was asked is none."""
    named = answer.get("iss")
    if named is None and metadata.authorization_response_iss_parameter_supported:
        raise failed("its answer doesn't say whose it is", "log in again")
    if named not in (None, metadata.issuer):
        raise failed("the answer is another provider's", "log in again")
    if "code" not in answer:
        raise refused(answer)


class _Listener:
    """A web server on loopback that waits for the one answer which has this `state`.

    The state is known before the port is open: a browser that is logged in already may answer
    sooner than `show` returns.
    """

    def __init__(self, state: str) -> None:
        self._answers: queue.Queue[_Answer] = queue.Queue()
        self._state = state
        listener = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10  # browsers open connections ahead of need

            def do_GET(self) -> None:
                """One answer, and nothing else."""
                taken = listener._take(self.path)
                self.send_response(200 if taken else 404)
                for name, text in _HEADERS.items():
                    self.send_header(name, text)
                self.send_header("Content-Length", str(len(_DONE) if taken else 0))
                self.end_headers()
                if taken:
                    self.wfile.write(_DONE)

            def log_message(self, *_: object) -> None:
                """Nothing: the code is in the path."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Nothing: whoever hangs up is no concern of ours."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._thread.start()
        self.redirect = f"http://127.0.0.1:{self._server.server_address[1]}{CALLBACK}"

    def answer(self, wait_s: float) -> _Answer:
        """The answer; others are turned away."""
        try:
            return self._answers.get(timeout=wait_s)
        except queue.Empty:
            self._late()

    def _late(self) -> NoReturn:
        raise failed("nobody logged in in time", "run `modelvault login` again, or with --device")

    def _take(self, path: str) -> bool:
        parts = urlsplit(path)
        try:
            query = parse_qs(parts.query, strict_parsing=True, max_num_fields=20)
        except ValueError:
            return False
        if parts.path != CALLBACK or any(len(values) != 1 for values in query.values()):
            return False
        answer = _Answer({name: values[0] for name, values in query.items()})
        if not hmac.compare_digest(answer.get("state", "").encode(), self._state.encode()):
            return False
        self._answers.put(answer)
        return True

    def __enter__(self) -> _Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
