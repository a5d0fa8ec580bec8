"""`ObjectStore` over a bucket: what the broker itself reads, puts and tidies up."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from modelvault.adapters.objects_s3.bucket import Bucket, translated
from modelvault.artifact.grouping import Group, group
from modelvault.artifact.parallel import run_blocks
from modelvault.clock import Clock, utc_ms
from modelvault.errors import Conflict, IntegrityError, InvalidRequest, ModelVaultError
from modelvault.ports.objects import NAME, ObjectInfo, PutPart, check_name


class S3Store:
    """Thread-safe; one client with its own connections, made at the first use.

    Nothing is overwritten: every put, and every multipart upload's end, says If-None-Match, and
    `check` refuses a server that doesn't heed it.
    """

    def __init__(self, bucket: Bucket, clock: Clock = utc_ms) -> None:
        self.bucket = bucket
        self.client = bucket.client()
        self._probe = bucket.client(timeout_s=2.0, tries=1)
        self._clock = clock

    def close(self) -> None:
        """Let go of the connections."""
        self.client.close()
        self._probe.close()

    def size(self, name: str) -> int:
        """See `ObjectReader`."""
        key = self.bucket.key(check_name(name))
        with translated(name):
            answer = self.client.head_object(Bucket=self.bucket.name, Key=key)
        return int(answer["ContentLength"])

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """See `ObjectReader`."""
        check_name(name)
        if len(buffer):
            with self.stream(name, offset, len(buffer)) as read:
                read(buffer)

    def stream(
        self, name: str, offset: int, size: int
    ) -> AbstractContextManager[Callable[[memoryview], None]]:
        """See `ObjectReader`."""
        return self._stream(check_name(name), offset, size)

    @contextmanager
    def _stream(self, name: str, offset: int, size: int) -> Iterator[Callable[[memoryview], None]]:
        span = f"bytes={offset}-{offset + size - 1}"
        try:
            with translated(name):
                answer = self.client.get_object(
                    Bucket=self.bucket.name, Key=self.bucket.key(name), Range=span
                )
        except ModelVaultError as refused:
            raise _truncated(name) if refused.code == "bad_range" else refused from None
        body = answer["Body"]

        def read(buffer: memoryview) -> None:
            done = 0
            while done < len(buffer):
                with translated(name):
                    count = body.readinto(buffer[done:])
                if not count:
                    raise _truncated(name)
                done += count

        try:
            yield read
        finally:
            body.close()

    def put(self, name: str, sizes: Sequence[int], fill: Callable[[int, memoryview], None]) -> None:
        """See `ObjectWriter`. What `fill` raises comes out as it is."""
        check_name(name)
        groups = group(sizes)
        if len(groups) > 1:
            self._put_parts(name, sizes, groups, fill)
            return
        buffer = memoryview(bytearray(groups[0].size))
        groups[0].fill(sizes, fill, buffer)
        with translated(name):
            self.client.put_object(
                Bucket=self.bucket.name,
                Key=self.bucket.key(name),
                Body=bytes(buffer),
                IfNoneMatch="*",
                **self._extra(),
            )

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `ObjectStore`."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket.name, Prefix=self.bucket.key(prefix)
        )
        with translated(prefix):
            for page in pages:
                for found in page.get("Contents", ()):
                    name = found["Key"].removeprefix(self.bucket.prefix)
                    if NAME.fullmatch(name) and name.startswith(prefix):
                        modified = round(found["LastModified"].timestamp() * 1000)
                        yield ObjectInfo(name, found["Size"], modified)

    def delete(self, name: str) -> None:
        """See `ObjectStore`."""
        key = self.bucket.key(check_name(name))
        with translated(name):
            self.client.delete_object(Bucket=self.bucket.name, Key=key)

    def sweep(self, before: int) -> int:
        """See `ObjectStore`: multipart uploads that were begun before `before` are given up."""
        removed = 0
        pages = self.client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self.bucket.name, Prefix=self.bucket.prefix
        )
        with translated("objects/"):
            for page in pages:
                for found in page.get("Uploads", ()):
                    name = found["Key"].removeprefix(self.bucket.prefix)
                    if NAME.fullmatch(name) and _ms(found["Initiated"]) < before:
                        self.abort(name, found["UploadId"])
                        removed += 1
        return removed

    def check(self) -> None:
        """Whether the bucket is there, can be written to, and overwrites nothing.

        Raises Unavailable (`store_unavailable`), InvalidRequest (`bad_store`).
        """
        name = "objects/" + secrets.token_hex(16)
        self.put(name, [1], _nothing)
        try:
            self.put(name, [1], _nothing)
        except Conflict:
            return
        finally:
            self.delete(name)
        raise InvalidRequest(
            "bad_store",
            "the object store overwrites what is there: it doesn't heed If-None-Match",
            "use a store that does (Amazon S3, and most others today)",
        )

    def reach(self) -> None:
        """Whether the bucket answers, and at once: for readiness.

        Raises Unavailable (`store_unavailable`)."""
        with translated(self.bucket.name):
            self._probe.head_bucket(Bucket=self.bucket.name)

    # multipart

    def begin(self, name: str) -> str:
        """See `UrlSigner`."""
        key = self.bucket.key(check_name(name))
        with translated(name):
            answer = self.client.create_multipart_upload(
                Bucket=self.bucket.name, Key=key, **self._extra()
            )
        return str(answer["UploadId"])

    def parts(self, name: str, transfer: str) -> tuple[PutPart, ...]:
        """See `UrlSigner`."""
        return tuple(
            PutPart(found["PartNumber"], found["Size"]) for found in self._parts(name, transfer)
        )

    def complete(self, name: str, transfer: str, sizes: Sequence[int]) -> None:
        """See `UrlSigner`."""
        try:
            found = self._parts(name, transfer)
        except ModelVaultError as refused:
            if refused.code == "no_transfer" and self._stands(name, sum(sizes)):
                return
            raise
        there = [(part["PartNumber"], part["Size"]) for part in found]
        if there != list(enumerate(sizes, 1)):
            raise IntegrityError(
                "parts_missing",
                f"{name} is there with {len(there)} of {len(sizes)} parts, or of other sizes",
                "put the missing parts, then complete it again",
            )
        tags = [{"PartNumber": part["PartNumber"], "ETag": part["ETag"]} for part in found]
        self._complete(name, transfer, tags)

    def abort(self, name: str, transfer: str) -> None:
        """See `UrlSigner`."""
        try:
            with translated(name):
                self.client.abort_multipart_upload(
                    Bucket=self.bucket.name, Key=self.bucket.key(name), UploadId=transfer
                )
        except ModelVaultError as refused:
            if refused.code not in {"no_transfer", "no_object"}:
                raise

    def _put_parts(
        self,
        name: str,
        sizes: Sequence[int],
        groups: Sequence[Group],
        fill: Callable[[int, memoryview], None],
    ) -> None:
        transfer = self.begin(name)
        tags: dict[int, dict[str, object]] = {}
        own = threading.local()

        def work(number: int, _stop: int) -> None:
            if not hasattr(own, "buffer"):
                own.buffer = memoryview(bytearray(max(each.size for each in groups)))
            part = own.buffer[: groups[number].size]
            groups[number].fill(sizes, fill, part)
            with translated(name):
                answer = self.client.upload_part(
                    Bucket=self.bucket.name,
                    Key=self.bucket.key(name),
                    UploadId=transfer,
                    PartNumber=number + 1,
                    Body=bytes(part),
                )
            tags[number] = {"PartNumber": number + 1, "ETag": answer["ETag"]}

        try:
            run_blocks(work, len(groups), 1, self.bucket.threads)
            self._complete(name, transfer, [tags[number] for number in sorted(tags)])
        except BaseException:
            with suppress(ModelVaultError):
                self.abort(name, transfer)
            raise

    def _complete(self, name: str, transfer: str, tags: Sequence[dict[str, object]]) -> None:
        with translated(name):
            self.client.complete_multipart_upload(
                Bucket=self.bucket.name,
                Key=self.bucket.key(name),
                UploadId=transfer,
                MultipartUpload={"Parts": list(tags)},
                IfNoneMatch="*",
            )

    def _parts(self, name: str, transfer: str) -> Sequence[dict[str, Any]]:
        pages = self.client.get_paginator("list_parts").paginate(
            Bucket=self.bucket.name, Key=self.bucket.key(check_name(name)), UploadId=transfer
        )
        with translated(name):
            return [part for page in pages for part in page.get("Parts", ())]

    def _stands(self, name: str, size: int) -> bool:
        try:
            return self.size(name) == size
        except ModelVaultError:
            return False

    def _extra(self) -> dict[str, object]:
        """Encryption and retention, as the bucket's settings say."""
        extra: dict[str, object] = dict(self.bucket.extra())
        if self.bucket.lock_mode is not None:
            until = self._clock() // 1000 + (self.bucket.lock_days or 1) * 86_400
            extra["ObjectLockMode"] = self.bucket.lock_mode
            extra["ObjectLockRetainUntilDate"] = datetime.fromtimestamp(until, UTC)
            extra["ChecksumAlgorithm"] = "SHA256"  # S3 wants one with a retention
        return extra


def _ms(moment: datetime) -> int:
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1))


def _nothing(_part: int, buffer: memoryview) -> None:
    buffer[:] = bytes(len(buffer))


def _truncated(name: str) -> IntegrityError:
    return IntegrityError(
        "truncated",
        f"the object {name} ends before what was to be read",
        "restore it from a copy, or load another version",
    )
