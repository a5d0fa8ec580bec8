"""An S3 bucket as object store, and the links that let clients use it."""

from modelvault.adapters.objects_s3.bucket import Bucket
from modelvault.adapters.objects_s3.signer import S3Signer
from modelvault.adapters.objects_s3.store import S3Store

__all__ = ["Bucket", "S3Signer", "S3Store"]
