"""A broker that is told to stop: says so, goes on for a while, and ends in order."""

from __future__ import annotations

import signal
from pathlib import Path

import requests

from support.servers.process import free_port


def test_readiness_says_no_while_calls_are_still_answered(stack, monkeypatch) -> None:
    told = Path(stack.configs[0])
    port = free_port()
    config = stack.folder / "stopping.toml"
    config.write_text(
        told.read_text().replace(f"port = {stack.ports[0]}\n", f"port = {port}\nnotice_s = 2\n")
    )
    monkeypatch.setattr(stack, "ports", [*stack.ports, port])
    monkeypatch.setattr(stack, "configs", [*stack.configs, config])
    broker = stack.broker(len(stack.ports) - 1)

    def ask(path: str, **headers: str) -> requests.Response:
        return requests.get(
            f"https://127.0.0.1:{port}{path}", headers=headers, verify=str(stack.ca), timeout=10
        )

    assert ask("/readyz").json()["status"] == "ready"
    broker.signal(signal.SIGTERM)
    broker.until(lambda: ask("/readyz").status_code == 503)  # with the port closed, this raises
    assert ask("/readyz").json()["parts"]["server"] == "stopping"
    answer = ask("/v1/whoami", Authorization=f"Bearer {stack.admin()}")
    assert (answer.status_code, answer.json()["id"]) == (200, "idp:olga")
    broker.wait()
    assert broker.status() == 0
