"""Real S3 servers on loopback: versitygw over a folder, and SeaweedFS."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from pathlib import Path

import botocore.exceptions
import requests

from modelvault.adapters.objects_s3 import Bucket
from support.servers.process import Process, free_port, require

ACCESS, SECRET = "AKIDOFTHETESTS", "a-secret-key-of-the-tests-only"
BUCKET = "models"


class S3Server:
    """A server with one bucket. `bucket` gives a fresh prefix in it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.folder = Path(tempfile.mkdtemp(prefix=f"mv-{kind}-"))
        self.credentials = self.folder / "credentials"
        self.credentials.write_text(
            f"[default]\naws_access_key_id = {ACCESS}\naws_secret_access_key = {SECRET}\n"
        )
        self.credentials.chmod(0o600)
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.process = self._versitygw() if kind == "versitygw" else self._seaweedfs()
        self.process.until(self._has_bucket, 60)

    def bucket(self, **changes: object) -> Bucket:
        values: dict = {
            "name": BUCKET,
            "prefix": f"{secrets.token_hex(6)}/",
            "endpoint": self.endpoint,
            "credentials_file": self.credentials,
            "path_style": True,
        }
        return Bucket(**(values | changes))

    def stop(self) -> None:
        if self.kind == "versitygw":
            self.process.stop()
        else:
            self.process.kill()  # it takes no notice of a polite word for long
        shutil.rmtree(self.folder, ignore_errors=True)

    def _versitygw(self) -> Process:
        data = self.folder / "data"
        data.mkdir()
        return Process(
            [
                require("versitygw", "versitygw-*/versitygw"), "--port", f"127.0.0.1:{self.port}",
                "--access", ACCESS, "--secret", SECRET, "--quiet", "posix", str(data),
            ],
            log=self.folder / "log",
            ready=self._ready,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
        )  # fmt: skip

    def _seaweedfs(self) -> Process:
        config = self.folder / "s3.json"
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        config.write_text(json.dumps({"identities": [identity]}))
        ports = [free_port() for _ in range(6)]
        return Process(
            [
                require("weed", "packages/bin/weed"), "server", f"-dir={self.folder}",
                "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", f"-s3.port={self.port}",
                f"-s3.config={config}", f"-master.port={ports[0]}", f"-volume.port={ports[1]}",
                f"-filer.port={ports[2]}", f"-master.port.grpc={ports[3]}",
                f"-volume.port.grpc={ports[4]}", f"-filer.port.grpc={ports[5]}",
                f"-s3.port.grpc={free_port()}", "-s3.port.iceberg=0", "-s3.port.lance=0",
                "-volume.max=20", "-master.volumeSizeLimitMB=64",
            ],
            log=self.folder / "log",
            ready=self._ready,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
            ready_s=60,
        )  # fmt: skip

    def _has_bucket(self) -> bool:
        client = self.bucket().client(timeout_s=5.0, tries=1)
        try:
            client.create_bucket(Bucket=BUCKET)
        except client.exceptions.BucketAlreadyOwnedByYou:
            return True
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
            return False
        finally:
            client.close()
        return True

    def _ready(self) -> bool:
        try:
            return requests.get(self.endpoint, timeout=2).status_code in {200, 403}
        except requests.RequestException:
            return False
