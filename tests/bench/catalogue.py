"""What a ledger of 10, 1,000 and 100,000 models makes of list, show and lease.

Three databases of one served vault, each with a broker of its own in this process; all cases take
turns. Ten models are real. The others are copies of them by SQL, behind them in the order of names:
they cost what rows cost, and nobody reads their documents.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
from measure import interleaved, report
from served import stack, stocked
from weights import write_safetensors

from modelvault import deployment
from modelvault.wiring import serving
from support.asker import Asker
from support.servers.stack import Stack

COUNTS = (10, 1_000, 100_000)
REAL = 10
ROUNDS = 40
GOAL = 1.5
_BATCH = (
    # (table, the columns that are another model's)
    ("models", {"model": "{name}"}),
    ("versions", {"model": "{name}", "artifact": "{id}"}),
    ("version_objects", {"model": "{name}", "object": "'objects/' || {id}", "artifact": "{id}"}),
    ("tags", {"model": "{name}"}),
    ("keys", {"model": "{name}", "artifact": "{id}"}),
)

# What a copy's id is made of, so that a version finds its key: a model's other key is its content
# key's.
_KEYS = {
    "version_objects": "o.object",
    "keys": "CASE WHEN EXISTS (SELECT 1 FROM versions v WHERE v.artifact = o.artifact) "
    "THEN 'a' ELSE 'c' END",
}


def catalogue_cases(folder: Path) -> None:
    folder.mkdir()
    with stack() as made:
        if made is None:
            return
        reference = _models(made, folder)
        with _ledgers(made) as brokers:
            _measure(made, brokers, reference)


def _models(made: Stack, folder: Path) -> str:
    """Ten models, each with a version and a tag."""
    admin, name = stocked(made, folder, 1 << 16, 4)
    plain = folder / "model.safetensors"
    write_safetensors(plain, 1 << 16, 4)
    for number in range(REAL - 1):
        admin.create(f"a-{number}", classification="internal")
        admin.push(plain, f"a-{number}:prod")
    admin.close()
    return f"{name}:prod"


@contextmanager
def _ledgers(made: Stack) -> Iterator[dict[int, serving.Parts]]:
    """A broker for each size. The stack's own brokers end: a database that is in use isn't copied,
    and OPA has its bundle."""
    for broker in made.brokers:
        broker.stop()
    told = deployment.read(made.configs[0])
    with ExitStack() as opened:
        brokers = {}
        for count in COUNTS:
            name = made.postgresql.fresh(made.database)
            _fill(made, name, count - REAL)
            url = made.postgresql.url(name)
            ledger = msgspec.structs.replace(told.ledger, url=url)
            parts = serving.open_parts(msgspec.structs.replace(told, ledger=ledger))
            opened.callback(parts.close)
            brokers[count] = parts
        yield brokers


def _fill(made: Stack, database: str, count: int) -> None:
    """Copies of one model, named behind all real ones."""
    with made.postgresql.connect(database) as connection:
        for table, changed in _BATCH:
            columns = [
                row[0]
                for row in connection.execute(
                    "SELECT column_name FROM information_schema.columns WHERE table_name = %s",
                    (table,),
                )
            ]
            name, unique = "'z' || lpad(n::text, 7, '0')", "md5({key} || n::text)"
            key = _KEYS.get(table, "'a'")
            values = [
                changed[each].format(name=name, id=unique.format(key=key))
                if each in changed
                else f"o.{each}"
                for each in columns
            ]
            connection.execute(
                f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)} "  # noqa: S608
                f"FROM {table} o, generate_series(1, {count}) n WHERE o.model = 'a-0'"
            )
        connection.execute("ANALYZE")


def _measure(made: Stack, brokers: dict[int, serving.Parts], reference: str) -> None:
    askers = {count: Asker(made, reference, at=parts.broker) for count, parts in brokers.items()}
    calls = {
        "list, a page of 10": lambda asker: asker.broker.list(
            asker.caller, tenant="default", limit=10
        ),
        "show": lambda asker: asker.broker.show(asker.caller, reference),
        "lease": Asker.lease,
    }

    def tidy() -> None:
        for asker in askers.values():
            asker.release_all()

    for name, call in calls.items():
        cases = {
            str(count): lambda asker=asker, call=call: call(asker)
            for count, asker in askers.items()
        }
        for _ in range(10):  # statements get prepared and planned
            for case in cases.values():
                case()
        seconds = interleaved(cases, ROUNDS, tidy=tidy)
        for count in COUNTS[1:]:
            report(
                name,
                f"{count:,} models in the ledger",
                ours=seconds[str(count)],
                other=seconds[str(COUNTS[0])],
                other_name=f"{COUNTS[0]} models",
                unit="s",
                goal=GOAL,
            )
