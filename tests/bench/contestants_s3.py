"""Who is compared at loading from S3; `served.py` puts their objects into the bucket."""

from __future__ import annotations

import importlib
import os
import tempfile
from pathlib import Path
from typing import Any

from contestants import CONTESTANTS, Contestant, Ours, Source, Tensorizer, Use


class Boto3:
    """What one does by hand: the object as a file, the file as tensors."""

    label = "boto3 download_file, then safetensors.torch"
    kind = "s3"

    def __init__(self, threads: int) -> None:
        self._boto3 = importlib.import_module("boto3")
        self._load = importlib.import_module("safetensors.torch").load_file

    def prepare(self, plain: Path, folder: Path) -> Source:
        raise NotImplementedError("served.py puts it into the bucket")

    def load(self, source: Source, use: Use) -> None:
        client = self._boto3.client("s3", **source["client"])
        with tempfile.NamedTemporaryFile(dir=source["folder"]) as copy:
            client.download_fileobj(source["bucket"], source["object"], copy)
            copy.flush()
            for tensor in self._load(copy.name).values():
                use(tensor)


class TensorizerS3(Tensorizer):
    label = "tensorizer, not encrypted, from S3"
    kind = "tensorizer-s3"

    def load(self, source: Source, use: Use) -> None:
        client = source["client"]
        stream = importlib.import_module("tensorizer.stream_io").open_stream(
            f"s3://{source['bucket']}/{source['object']}",
            s3_endpoint=client["endpoint_url"].removeprefix("http://"),
            s3_access_key_id=client["aws_access_key_id"],
            s3_secret_access_key=client["aws_secret_access_key"],
            force_http=True,
        )
        self._show(stream, source, use)


class TensorizerS3Encrypted(TensorizerS3):
    label = "tensorizer, encrypted, from S3"
    kind = "tensorizer-s3-encrypted"
    encrypted = True


class OursServed(Ours):
    """As a job on another machine: lease from a broker, ciphertext by links from the store."""

    label = "modelvault, tensors(), from S3"
    kind = "served"

    def _session(self, source: Source) -> Any:
        if "" not in self._sessions:
            os.environ.update(source["environment"])
            self._sessions[""] = self._modelvault.connect()
        return self._sessions[""]


FROM_S3: dict[str, type[Contestant]] = {
    "s3-boto3": Boto3,
    "s3-tensorizer": TensorizerS3,
    "s3-tensorizer-encrypted": TensorizerS3Encrypted,
    "s3-ours": OursServed,
}
ALL = {**CONTESTANTS, **FROM_S3}
