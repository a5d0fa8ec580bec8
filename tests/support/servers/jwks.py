"""An issuer's key set on loopback, which can be slow, wrong or away, and counts who asks."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

Answer = Callable[[BaseHTTPRequestHandler], None]
PATH = "/keys"


def jwk(key: object, kid: str | None = None, **more: object) -> dict[str, object]:
    """The public half of a private key as a JWK (RFC 7517); a member of None is left out."""
    public = key.public_key()
    made: dict[str, object] = {"kid": kid, "use": "sig"}
    if isinstance(public, rsa.RSAPublicKey):
        numbers = public.public_numbers()
        made |= {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}
    elif isinstance(public, ec.EllipticCurvePublicKey):
        numbers, length = public.public_numbers(), (public.key_size + 7) // 8
        crv = {256: "P-256", 384: "P-384", 521: "P-521"}[public.key_size]
        x, y = (number(value, length) for value in (numbers.x, numbers.y))
        made |= {"kty": "EC", "crv": crv, "x": x, "y": y}
    elif isinstance(public, ed25519.Ed25519PublicKey):
        made |= {"kty": "OKP", "crv": "Ed25519", "x": text(public.public_bytes_raw())}
    return {name: value for name, value in (made | more).items() if value is not None}


def number(value: int, length: int | None = None) -> str:
    return text(value.to_bytes(length or (value.bit_length() + 7) // 8, "big"))


def text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def document(*keys: dict[str, object]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def body(data: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"Content_Length": str(len(data)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(data)

    return answer


class JwksServer:
    """`answer` may be changed at any time; `asked` are the headers of the requests so far."""

    def __init__(self, answer: Answer, context: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.asked: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(dict(self.headers) | {"path": self.path})
                outer.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # clients that give up half-way are what is tested

        self._server = Server(("127.0.0.1", 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}{PATH}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
