"""An OIDC issuer as far as a vault sees it: a key that signs tokens, and a JWKS on loopback."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec


class LocalIssuer:
    """Signs with ES256. `requests` counts what was fetched; `up` False makes it answer 503."""

    def __init__(self, name: str = "idp") -> None:
        self.name = name
        self.kid = "key-1"
        self.up = True
        self.requests = 0
        self._key = ec.generate_private_key(ec.SECP256R1())
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.requests += 1
                body = owner.jwks() if owner.up else b""
                self.send_response(200 if owner.up else 503)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.iss = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{self.iss}/jwks"

    def jwks(self) -> bytes:
        key = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key()))
        return json.dumps({"keys": [key | {"kid": self.kid, "use": "sig"}]}).encode()

    def token(self, audience: str, sub: str, groups: tuple[str, ...] = (), **claims: Any) -> str:
        now = int(time.time())
        payload = {
            "iss": self.iss, "aud": audience, "sub": sub, "iat": now, "exp": now + 900,
            "groups": list(groups), **claims,
        }  # fmt: skip
        return jwt.encode(payload, self._key, "ES256", {"kid": self.kid})

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
