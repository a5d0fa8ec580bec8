"""The ledger's schema moves on to a later version's while brokers of this one serve."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from modelvault.adapters.ledger_sql import schema
from modelvault.adapters.ledger_sql.migrating import migrate
from support import schemas


def test_brokers_serve_before_during_and_after(
    stack, session, admin, name, model, check, tmp_path
) -> None:
    admin.create(name, classification="internal")
    admin.push(model, name)
    stop = threading.Event()
    done: list[int] = []

    def work(broker: int) -> None:
        job = session(stack.token("job", "inference"), broker)
        while not stop.is_set():
            with job.load(name, purpose="inference") as loaded:
                check(loaded.tensors())
            assert name in {each.model for each in job.list(limit=1000)}
            session(stack.admin(), broker).push(model, name)
            done.append(broker)

    def until(number: int) -> None:
        while len(done) < number and not any(each.done() for each in working):
            stop.wait(0.02)

    url = stack.postgresql.url(stack.database)
    with ThreadPoolExecutor(2) as threads:
        working = [threads.submit(work, broker) for broker in (0, 1)]
        try:
            until(2)
            moved = migrate(url, schemas.later(tmp_path, schemas.EXPAND))
            until(len(done) + 4)
        finally:
            stop.set()
        for each in working:
            each.result()
    assert moved == (schema.VERSION, schema.VERSION + 1)
    assert "approvals" in schemas.tables(url)
    assert set(done) == {0, 1}
    assert len(admin.show(name).versions) == 1 + len(done)

    stack.brokers[1].stop()  # one is restarted before its turn to be exchanged comes
    stack.brokers[1] = stack.broker(1)
    with session(stack.token("job", "inference"), 1).load(name, purpose="inference") as loaded:
        check(loaded.tensors())
    command = Path(sys.executable).with_name("modelvault")
    told = subprocess.run(
        [command, "--json", "migrate", "schema", "--deployment", stack.configs[0]],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    document = json.loads(told.stdout)
    assert (document["before"], document["after"]) == moved[1:] * 2
