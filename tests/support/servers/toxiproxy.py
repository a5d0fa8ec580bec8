"""toxiproxy: a network between two parts that is slow, cut, reset or silent on command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from support.servers.process import Process, free_port, listening, require

TOXICS: dict[str, dict] = {
    "reset": {"type": "reset_peer", "attributes": {"timeout": 0}},
    "cut": {"type": "limit_data", "attributes": {"bytes": 100}},
    "slow": {"type": "latency", "attributes": {"latency": 60_000}},
    "silent": {"type": "timeout", "attributes": {"timeout": 0}},
}


class Toxiproxy:
    """One server with a proxy for each part."""

    def __init__(self, folder: Path) -> None:
        self._port = free_port()
        self._url = f"http://127.0.0.1:{self._port}"
        self._ports: dict[str, int] = {}
        self._process = Process(
            [
                require("toxiproxy-server", "toxiproxy-*/toxiproxy-server"), "-host", "127.0.0.1",
                "-port", str(self._port),
            ],
            log=folder / "toxiproxy.log",
            ready=lambda: listening(self._port),
        )  # fmt: skip

    def proxy(self, part: str, port: int) -> int:
        """The port that leads to the part; one proxy for each."""
        if part not in self._ports:
            self._ports[part] = free_port()
            told = {
                "name": part,
                "listen": f"127.0.0.1:{self._ports[part]}",
                "upstream": f"127.0.0.1:{port}",
                "enabled": True,
            }
            self._ask("POST", "/proxies", told)
        return self._ports[part]

    @contextmanager
    def failing(self, part: str, how: str) -> Iterator[None]:
        """Within it the way to the part is `down`, or has one of TOXICS."""
        if how == "down":
            self._ask("POST", f"/proxies/{part}", {"enabled": False})
        else:
            toxic = {"name": "toxic", "stream": "downstream", "toxicity": 1.0, **TOXICS[how]}
            self._ask("POST", f"/proxies/{part}/toxics", toxic)
        try:
            yield
        finally:
            self._ask("POST", "/reset", None)

    def stop(self) -> None:
        self._process.stop()

    def _ask(self, method: str, path: str, body: dict | None) -> None:
        answer = requests.request(method, self._url + path, json=body, timeout=10)
        assert answer.ok, answer.text
