"""A real OPA server that loads its signed bundle from a loopback server of ours."""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.request import urlopen

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from modelvault.adapters.policy_opa import OpaAddress, OpaEngine
from modelvault.policy import archive, opa_server
from modelvault.policy.bundle import Bundle
from support.opa import opa
from support.servers.process import Process, free_port

TOKEN = "opa-takes-this-token"
BUNDLE_TOKEN = "bundle-server-takes-this-token"
LONG_POLL_S = 5.0


class EcSigner:
    """ports.keys.BundleSigner with a key in memory."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    def sign(self, message: bytes) -> bytes:
        r, s = decode_dss_signature(self._key.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def public_pem(self) -> str:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self._key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


class BundleServer:
    """Serves one archive at a time, and answers a long poll when it is exchanged."""

    def __init__(self) -> None:
        self.archive = b""
        self.serial = 0
        self.requests: list[dict[str, str]] = []
        self._changed = threading.Condition()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                owner._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def put(self, content: bytes) -> None:
        with self._changed:
            self.archive = content
            self.serial += 1
            self._changed.notify_all()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append(dict(handler.headers.items()))
        if handler.headers.get("Authorization") != f"Bearer {BUNDLE_TOKEN}":
            self._send(handler, 401, b"", "")
            return
        with self._changed:
            seen = handler.headers.get("If-None-Match", "")
            self._changed.wait_for(lambda: f'"{self.serial}"' not in seen, LONG_POLL_S)
            content, tag = self.archive, f'"{self.serial}"'
        self._send(handler, 304 if tag in seen else 200, content, tag)

    def _send(self, handler: BaseHTTPRequestHandler, status: int, content: bytes, tag: str) -> None:
        body = content if status == 200 else b""
        handler.send_response(status)
        handler.send_header("Content-Type", "application/vnd.openpolicyagent.bundles")
        handler.send_header("Content-Length", str(len(body)))
        if tag:
            handler.send_header("ETag", tag)
        handler.end_headers()
        handler.wfile.write(body)


class Served:
    """OPA, and the server that it loads bundles from."""

    def __init__(self, folder: Path) -> None:
        self.signer = EcSigner()
        self.bundles = BundleServer()
        self.port = free_port()
        self.token_file = folder / "token"
        self.token_file.write_text(TOKEN)
        (folder / "bundle-token").write_text(BUNDLE_TOKEN)
        config = folder / "config.json"
        told = opa_server.config(
            self.bundles.url, self.signer.public_pem(), token_file=folder / "bundle-token"
        )
        config.write_text(json.dumps(told))
        self.log = folder / "opa.log"
        self._command = opa_server.command(opa(), f"127.0.0.1:{self.port}", config)
        self.process = self._start()

    @property
    def address(self) -> OpaAddress:
        return OpaAddress(
            address=f"http://127.0.0.1:{self.port}", token_file=self.token_file, deadline_s=10.0
        )

    def serve(self, bundle: Bundle) -> Served.Engine:
        """An engine of the bundle, once OPA has fetched it."""
        self.bundles.put(archive.pack(bundle, self.signer.sign))
        return self.Engine(self.address, bundle.revision, settle_s=10.0)

    def restart(self) -> None:
        self.process.stop()
        self.process = self._start()

    def close(self) -> None:
        self.process.stop()
        self.bundles.close()

    def _start(self) -> Process:
        environment = {"PATH": os.environ["PATH"], **opa_server.environment(TOKEN)}
        return Process(self._command, log=self.log, ready=self._ready, env=environment)

    def _ready(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    class Engine(OpaEngine):
        """Closes as the other engines do."""

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self.close()
