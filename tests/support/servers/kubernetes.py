"""As much of a Kubernetes API server as a vault and its key service see: it makes service account
tokens bound to a pod, shows the keys that verify them to whoever has one, and reviews them."""

from __future__ import annotations

import json
import secrets
import ssl
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import trustme
from cryptography.hazmat.primitives.asymmetric import rsa

from support.servers.jwks import document, jwk

ISS = "https://kubernetes.default.svc.cluster.local"
NAME = "kubernetes.default.svc"


class Cluster:
    """Listens on `port` of loopback with a certificate of `authority` for NAME."""

    def __init__(self, authority: trustme.CA) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._kid = secrets.token_hex(8)
        self.reviews: list[dict[str, Any]] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(NAME, "127.0.0.1").configure_cert(context)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def jwks(self) -> str:
        return f"https://{NAME}:{self.port}/openid/v1/jwks"

    def token(self, namespace: str, account: str, audience: str | None, seconds: int = 3600) -> str:
        """As a projected volume has it; without an audience it is for this server."""
        now = int(time.time())
        claims = {
            "iss": ISS,
            "aud": [audience or ISS],
            "sub": f"system:serviceaccount:{namespace}:{account}",
            "iat": now,
            "nbf": now,
            "exp": now + seconds,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": {
                "namespace": namespace,
                "pod": {"name": f"{account}-0", "uid": str(uuid.uuid4())},
                "serviceaccount": {"name": account, "uid": str(uuid.uuid4())},
            },
        }
        return jwt.encode(claims, self._key, "RS256", {"kid": self._kid})

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _claims(self, token: str, audience: str) -> dict[str, Any] | None:
        try:
            return dict(jwt.decode(token, self._key.public_key(), ["RS256"], audience=audience))
        except jwt.InvalidTokenError:
            return None

    def _review(self, asked: dict[str, Any]) -> dict[str, Any]:
        spec = asked["spec"]
        wanted = (spec.get("audiences") or [ISS])[0]
        claims = self._claims(spec["token"], wanted)
        status: dict[str, Any] = {"authenticated": claims is not None}
        if claims is not None:
            account = claims["kubernetes.io"]["serviceaccount"]
            user = {"username": claims["sub"], "uid": account["uid"], "groups": []}
            status |= {"user": user, "audiences": [wanted]}
        self.reviews.append(status)
        return {
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status,
        }  # fmt: skip

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                shown = self.headers.get("Authorization", "").removeprefix("Bearer ")
                if self.path != "/openid/v1/jwks" or owner._claims(shown, ISS) is None:
                    self._answer(401, b"{}")
                    return
                self._answer(200, document(jwk(owner._key, owner._kid, alg="RS256")))

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._answer(201, json.dumps(owner._review(asked)).encode())

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
