"""A broker that is told to stop: says so, goes on for a while, and ends in order."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import requests

from support.servers.process import free_port


def test_readiness_says_no_while_calls_are_still_answered(stack, monkeypatch) -> None:
    first = Path(stack.configs[0])
    port, metrics = free_port(), free_port()
    config = stack.folder / "stopping.toml"
    config.write_text(
        first.read_text().replace(
            f"port = {stack.ports[0]}\n", f"port = {port}\nmetrics_port = {metrics}\nnotice_s = 2\n"
        )
    )
    monkeypatch.setattr(stack, "ports", [*stack.ports, port])
    monkeypatch.setattr(stack, "configs", [*stack.configs, config])
    broker = stack.broker(len(stack.ports) - 1)

    def ask(path: str, **headers: str) -> requests.Response:
        return requests.get(
            f"https://127.0.0.1:{port}{path}", headers=headers, verify=str(stack.ca), timeout=10
        )

    assert ask("/readyz").json()["status"] == "ready"
    assert "modelvault_" not in ask("/metrics").text  # not where everybody is answered
    told = requests.get(f"http://127.0.0.1:{metrics}/metrics", timeout=10).text
    assert 'modelvault_part_up{part="ledger"} 1.0' in told
    assert re.search(r"^modelvault_leases_running \d+\.0$", told, re.MULTILINE)
    broker.signal(signal.SIGTERM)
    broker.until(lambda: ask("/readyz").status_code == 503)  # with the port closed, this raises
    assert ask("/readyz").json()["parts"]["server"] == "stopping"
    answer = ask("/v1/whoami", Authorization=f"Bearer {stack.admin()}")
    assert (answer.status_code, answer.json()["id"]) == (200, "idp:olga")
    broker.wait()
    assert broker.status() == 0
