"""`UrlSigner`: requests that the broker has signed and somebody else makes.

AWS Signature Version 4 in the query (docs.aws.amazon.com/AmazonS3/latest/API/
sigv4-query-string-auth.html). What may be done is in the signature: the method, the key, the part,
how many bytes, and that nothing is overwritten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modelvault.adapters.objects_s3.bucket import translated
from modelvault.adapters.objects_s3.store import S3Store
from modelvault.lease import Link
from modelvault.ports.objects import PutPart, check_name


class S3Signer:
    """Thread-safe. Signing asks nobody; only transfers are begun, listed and completed at S3."""

    def __init__(self, store: S3Store) -> None:
        self._store = store
        self._bucket = store.bucket
        public = self._bucket.public_endpoint
        self._client = self._bucket.client(public) if public else store.client

    def download(self, names: Sequence[str], ttl_s: int) -> tuple[Link, ...]:
        """See `ports.objects.UrlSigner`."""
        return tuple(Link(object=name, url=self._sign("get_object", name, ttl_s)) for name in names)

    def upload(self, name: str, size: int, ttl_s: int) -> Link:
        """See `ports.objects.UrlSigner`."""
        more = {"ContentLength": size, "IfNoneMatch": "*", **self._bucket.extra()}
        headers = {"Content-Length": str(size), "If-None-Match": "*", **self._headers()}
        return Link(object=name, url=self._sign("put_object", name, ttl_s, **more), headers=headers)

    def upload_parts(
        self, name: str, transfer: str, sizes: Mapping[int, int], ttl_s: int
    ) -> tuple[Link, ...]:
        """See `ports.objects.UrlSigner`."""
        return tuple(
            Link(
                object=name,
                url=self._sign(
                    "upload_part",
                    name,
                    ttl_s,
                    UploadId=transfer,
                    PartNumber=number,
                    ContentLength=size,
                ),
                headers={"Content-Length": str(size)},
                part=number,
            )
            for number, size in sizes.items()
        )

    def begin(self, name: str) -> str:
        """See `ports.objects.UrlSigner`."""
        return self._store.begin(name)

    def parts(self, name: str, transfer: str) -> tuple[PutPart, ...]:
        """See `ports.objects.UrlSigner`."""
        return self._store.parts(name, transfer)

    def complete(self, name: str, transfer: str, sizes: Sequence[int]) -> None:
        """See `ports.objects.UrlSigner`."""
        self._store.complete(name, transfer, sizes)

    def abort(self, name: str, transfer: str) -> None:
        """See `ports.objects.UrlSigner`."""
        self._store.abort(name, transfer)

    def _sign(self, method: str, name: str, ttl_s: int, **more: Any) -> str:  # noqa: ANN401
        key = self._bucket.key(check_name(name))
        with translated(name):
            url: str = self._client.generate_presigned_url(
                method, Params={"Bucket": self._bucket.name, "Key": key, **more}, ExpiresIn=ttl_s
            )
        return url

    def _headers(self) -> dict[str, str]:
        """The headers of `Bucket.extra`."""
        named = {
            "ServerSideEncryption": "x-amz-server-side-encryption",
            "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
        }
        return {named[name]: value for name, value in self._bucket.extra().items()}
