"""Where a deployment keeps things: the ledger's database, and the bucket of ciphertext."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelvault import clock as clocks
from modelvault import deployment as deployments
from modelvault.deployment import Deployment
from modelvault.errors import Unavailable

if TYPE_CHECKING:
    from modelvault.adapters.ledger_sql import SqlLedger
    from modelvault.adapters.objects_s3 import S3Store

MAX_SKEW_MS = 30_000


def open_ledger(told: Deployment) -> SqlLedger:
    """The ledger of a deployment. Raises Unavailable (`clock_skew`), and as the adapter does."""
    from modelvault.adapters.ledger_sql import SqlLedger

    ledger = SqlLedger(ledger_url(told), clocks.utc_ms, told.ledger.deadline_s)
    try:
        _check_clock(ledger)
    except BaseException:
        ledger.close()
        raise
    return ledger


def ledger_url(told: Deployment) -> str:
    """The ledger's address with its password, which is in no settings and no message."""
    from modelvault.adapters.ledger_sql.database import with_password

    file = told.ledger.password_file
    return with_password(told.ledger.url, None if file is None else deployments.secret_text(file))


def _check_clock(ledger: SqlLedger) -> None:
    """Leases and tokens are judged by the database's time: a broker that disagrees is no use."""
    skew = abs(ledger.now() - clocks.utc_ms())
    if skew > MAX_SKEW_MS:
        raise Unavailable(
            "clock_skew",
            f"this machine's clock and the database's differ by {skew // 1000} s",
            "set the clocks (NTP) of both machines; up to 30 s are taken",
        )


def open_store(told: Deployment) -> S3Store:
    """The bucket of a deployment."""
    from modelvault.adapters.objects_s3 import Bucket, S3Store

    s3 = told.objects
    return S3Store(
        Bucket(
            name=s3.bucket,
            prefix=s3.prefix,
            endpoint=s3.endpoint,
            public_endpoint=s3.public_endpoint,
            region=s3.region,
            ca=s3.ca,
            credentials_file=s3.credentials_file,
            path_style=s3.path_style,
            encryption=s3.encryption,
            kms_key=s3.kms_key,
            lock_mode=s3.lock_mode,
            lock_days=s3.lock_days,
            timeout_s=s3.timeout_s,
        )
    )
