"""A served vault of real parts on loopback: leases, loads from S3, memory, and a large catalogue.

Where a server isn't built, these figures are left out, and stderr says so (`make servers`).
"""

from __future__ import annotations

import secrets
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from bare import Bare
from contest import Shape, race, workers
from contestants import Source, remove
from contestants_s3 import FROM_S3
from load import ours
from measure import back_memory, centile, interleaved, rate, report, samples
from memory import MIB, peak
from weights import GIB, write_safetensors

from modelvault.client.session import Session
from support.asker import Asker
from support.servers.s3 import ACCESS, SECRET
from support.servers.stack import Stack

ROUNDS = 200
AT_ONCE = 8
LEASES = 200
SIZE = GIB // 2
LOADS = 5


@contextmanager
def stack(brokers: int = 2) -> Iterator[Stack | None]:
    """PostgreSQL with all its promises kept; None where a server is missing."""
    try:
        made = Stack(brokers=brokers, durable=True, log_level="info")
    except (pytest.skip.Exception, pytest.fail.Exception) as missing:
        print(f"left out: {missing}", file=sys.stderr)
        yield None
        return
    try:
        yield made
    finally:
        made.close()


def stocked(made: Stack, folder: Path, size: int, tensors: int) -> tuple[Session, str]:
    """An admin's session, and the name of a model of that size."""
    name = f"m-{secrets.token_hex(4)}"
    admin = made.connect(made.admin())
    admin.create(name, classification="internal")
    plain = folder / f"{name}.safetensors"
    write_safetensors(plain, size, tensors)
    admin.push(plain, f"{name}:prod")
    plain.unlink()
    return admin, name


def lease_cases(folder: Path) -> None:
    """A lease by HTTPS at a broker against the bare call of it that opens the key."""
    folder.mkdir()
    with stack() as made:
        if made is None:
            return
        admin, name = stocked(made, folder, 1 << 16, 4)
        asker, bare = Asker(made, f"{name}:prod"), Bare(made)
        seconds = samples(
            {"ours": asker.lease, "bare": bare.decrypt}, ROUNDS, tidy=asker.release_all
        )
        for case, at in (("median", 0.5), ("p99", 0.99)):
            report(
                "lease through HTTPS, Vault, OPA, PostgreSQL",
                case,
                ours=centile(seconds["ours"], at),
                other=centile(seconds["bare"], at),
                other_name="bare decrypt at Vault",
                unit="s",
                goal=3.0,
            )
        throughput_case(made, f"{name}:prod")
        admin.close()


def throughput_case(made: Stack, reference: str) -> None:
    """Leases a second, eight jobs at once, of one broker and of two in turn."""
    askers = [Asker(made, reference, broker) for broker in (0, 1)]

    def take(number: int, brokers: int) -> None:
        askers[number % brokers].lease()

    def many(brokers: int) -> None:
        list(pool.map(lambda number: take(number, brokers), range(LEASES)))

    def tidy() -> None:
        for asker in askers:
            asker.release_all()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        cases = {f"{number}": lambda number=number: many(number) for number in (1, 2)}
        seconds = interleaved(cases, 4, tidy=tidy)
    rate(
        "leases a second",
        f"two brokers, {AT_ONCE} jobs at once, all on one machine",
        ours=LEASES / seconds["2"],
        other=LEASES / seconds["1"],
        other_name="one broker",
        goal=1.0,
    )


def s3_cases(folder: Path) -> None:
    """From S3 into memory, all checked, against boto3's own download of the ciphertext."""
    folder.mkdir()
    with stack(1) as made:
        if made is None:
            return
        admin, name = stocked(made, folder, SIZE, 16)
        bucket = made.s3.bucket()
        client = bucket.client(timeout_s=30.0, tries=1)
        found = client.list_objects_v2(Bucket=bucket.name, Prefix=made.prefix)["Contents"]
        largest = max(found, key=lambda each: each["Size"])["Key"]
        with made.connect(made.token("job", "inference")) as job:
            seconds = interleaved(
                {
                    "ours": lambda: ours(job, f"{name}:prod"),
                    "boto3": lambda: client.download_file(
                        bucket.name, largest, str(folder / "copy")
                    ),
                },
                LOADS,
                prepare=lambda: back_memory(2 * SIZE),
                tidy=lambda: (folder / "copy").unlink(missing_ok=True),
            )
        report(
            "load from S3",
            f"{SIZE // MIB} MiB, 16 tensors",
            ours=seconds["ours"],
            other=seconds["boto3"],
            other_name="boto3 download_file of the ciphertext",
            unit="s",
            goal=0.5,
        )
        client.close()
        admin.close()
        cache_case(made, folder, f"{name}:prod")
        race_case(made, folder, f"{name}:prod")
        memory_case(made, folder)


def cache_case(made: Stack, folder: Path, reference: str) -> None:
    """What filling a cache adds to a load, and what a full one saves."""
    token = made.token("job", "inference")
    filled, full = folder / "filled", folder / "full"

    def empty() -> None:
        for path in filled.glob("*"):
            path.unlink()

    with (
        made.connect(token) as without,
        made.connect(token, MODELVAULT_CACHE=str(filled)) as first,
        made.connect(token, MODELVAULT_CACHE=str(full)) as second,
    ):
        seconds = interleaved(
            {
                "without": lambda: ours(without, reference),
                "first": lambda: ours(first, reference),
                "second": lambda: ours(second, reference),
            },
            LOADS,
            prepare=lambda: back_memory(2 * SIZE),
            tidy=empty,
        )
    for case, key, goal in (("fills it", "first", 1.05), ("finds all in it", "second", 1.0)):
        report(
            f"load through a cache that {case}",
            f"{SIZE // MIB} MiB, 16 tensors, from S3",
            ours=seconds[key],
            other=seconds["without"],
            other_name="the same without a cache",
            unit="s",
            goal=goal,
        )


def race_case(made: Stack, folder: Path, reference: str) -> None:
    """The same size from S3 by everybody who can, time to the first tensor and all."""
    shape = Shape(SIZE, 16)
    plain = folder / "model.safetensors"
    write_safetensors(plain, shape.size, shape.tensors)
    bucket = made.s3.bucket()
    client = bucket.client(timeout_s=30.0, tries=1)
    at = {
        "bucket": bucket.name,
        "folder": str(folder),
        "client": {
            "endpoint_url": made.s3.endpoint,
            "region_name": "us-east-1",
            "aws_access_key_id": ACCESS,
            "aws_secret_access_key": SECRET,
        },
    }
    sources: dict[str, Source] = {}
    with workers(list(FROM_S3), 2) as crew:
        for worker in crew:
            kind = worker.kind
            if kind.startswith("tensorizer"):
                source = worker.prepare(plain, folder)
                name = f"bench/{kind}"
                client.upload_file(source["files"][0], bucket.name, name)
                remove(source)
                sources[kind] = {**source, **at, "object": name}
            elif kind == "s3":
                client.upload_file(str(plain), bucket.name, "bench/plain")
                sources[kind] = {**at, "object": "bench/plain"}
        with job(made, made.token("job", "inference")) as environment:
            sources["served"] = {"environment": environment, "reference": reference}
            race(crew, sources, shape, cache="s3", threads=2, rounds=LOADS)
    client.close()
    plain.unlink()


@contextmanager
def job(made: Stack, token: str) -> Iterator[dict[str, str]]:
    """The environment of a job on another machine."""
    with tempfile.TemporaryDirectory() as home:
        yield {
            "HOME": home,
            "XDG_CONFIG_HOME": home,
            "MODELVAULT_BROKER": made.urls[0],
            "MODELVAULT_CA": str(made.ca),
            "MODELVAULT_TRUST": str(made.trust),
            "MODELVAULT_TOKEN": token,
        }


def memory_case(made: Stack, folder: Path) -> None:
    """Of a gigabyte in both directions."""
    plain = folder / "model.safetensors"
    write_safetensors(plain, GIB, 32)
    name = f"m-{secrets.token_hex(4)}"
    with made.connect(made.admin()) as admin:
        admin.create(name, classification="internal")
    with job(made, made.admin()) as vault:
        pushing = peak(vault, name, "push", plain)
    with job(made, made.token("job", "inference")) as vault:
        loading = peak(vault, name, "load", plain) - peak(vault, name, "nothing", plain)
    report(
        "peak memory of push to S3",
        "1024 MiB",
        ours=pushing,
        other=192 * MIB,
        other_name="192 MiB, the whole process",
        unit="bytes",
        goal=1.0,
    )
    report(
        "peak memory of load from S3",
        "1024 MiB",
        ours=loading,
        other=GIB * 1.02 + 64 * MIB,
        other_name="1.02 x plaintext + 64 MiB, above an idle session",
        unit="bytes",
        goal=1.0,
    )
    plain.unlink()
