"""Which bucket, how to reach it, and what S3's answers mean."""

from __future__ import annotations

import configparser
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import boto3
import botocore.exceptions
import msgspec
from botocore.config import Config

from modelvault.errors import Conflict, InvalidRequest, ModelVaultError, NotFound, Unavailable

# boto3 writes signatures and headers into its debug log.
for _name in ("boto3", "botocore", "urllib3"):
    logging.getLogger(_name).setLevel(max(logging.INFO, logging.getLogger(_name).level))

_CONNECTIONS = 64
_GONE = frozenset({"404", "NoSuchKey", "NotFound"})
_NO_TRANSFER = frozenset({"NoSuchUpload"})
_TAKEN = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"})
_BEYOND = frozenset({"416", "InvalidRange"})
_DENIED = frozenset({"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"})


class Bucket(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket, and how requests are made.

    `prefix` stands in front of every object's name. Without `credentials_file` (an AWS credentials
    file, profile `default`) the SDK's own ways count: environment, container, instance. `ca` is a
    PEM file. `public_endpoint` is how clients reach the store where brokers reach it otherwise.
    `encryption`, `kms_key`, `lock_mode` and `lock_days` go along with each object that is put.
    """

    name: str
    prefix: str = ""
    endpoint: str | None = None
    public_endpoint: str | None = None
    region: str = "us-east-1"
    ca: Path | None = None
    credentials_file: Path | None = None
    path_style: bool = False
    encryption: Literal["AES256", "aws:kms"] | None = None
    kms_key: str | None = None
    lock_mode: Literal["GOVERNANCE", "COMPLIANCE"] | None = None
    lock_days: int | None = None
    timeout_s: float = 10.0
    threads: int = 4

    def client(
        self, endpoint: str | None = None, *, timeout_s: float | None = None, tries: int = 3
    ) -> Any:  # noqa: ANN401  boto3 has no types
        """A client of its own session. Thread-safe, as boto3 says of clients."""
        longest = timeout_s or self.timeout_s
        session = boto3.session.Session(**self._credentials())
        config = Config(
            region_name=self.region,
            signature_version="s3v4",
            s3={"addressing_style": "path" if self.path_style else "auto"},
            connect_timeout=min(longest, 3.0),
            read_timeout=longest,
            max_pool_connections=_CONNECTIONS,
            retries={"mode": "standard", "total_max_attempts": tries},  # with jitter
            # What is put is checked by the digests that the vault signs, over every byte.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return session.client(
            "s3",
            endpoint_url=endpoint or self.endpoint,
            verify=str(self.ca) if self.ca else None,
            config=config,
        )

    def key(self, name: str) -> str:
        """The key of an object."""
        return self.prefix + name

    def extra(self) -> dict[str, str]:
        """What goes along with each object that is put."""
        found = {"ServerSideEncryption": self.encryption, "SSEKMSKeyId": self.kms_key}
        return {name: value for name, value in found.items() if value}

    def _credentials(self) -> dict[str, str]:
        if self.credentials_file is None:
            return {}
        parser = configparser.ConfigParser()
        try:
            parser.read_string(self.credentials_file.read_text("utf-8"))
            section = parser["default"]
            return {
                "aws_access_key_id": section["aws_access_key_id"],
                "aws_secret_access_key": section["aws_secret_access_key"],
                **(
                    {"aws_session_token": section["aws_session_token"]}
                    if "aws_session_token" in section
                    else {}
                ),
            }
        except (OSError, KeyError, ValueError, configparser.Error):
            raise InvalidRequest(
                "bad_credentials_file",
                f"{self.credentials_file} isn't an AWS credentials file with a default profile",
                "write [default], aws_access_key_id and aws_secret_access_key into it",
            ) from None


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Every error of the SDK as one of ours, about the object `name`. None of its texts is shown:
    they can hold signed URLs and request headers."""
    try:
        yield
    except botocore.exceptions.ClientError as refused:
        raise error_of(refused, name) from None
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.HTTPClientError, OSError):
        raise unavailable("it can't be reached, or gave no usable answer") from None


def code_of(refused: botocore.exceptions.ClientError) -> str:
    """S3's error code, or the status where there is no body to hold one."""
    code = str(refused.response.get("Error", {}).get("Code", ""))
    status = refused.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "")
    return code or str(status)


def error_of(refused: botocore.exceptions.ClientError, name: str) -> ModelVaultError:
    """What S3's refusal means."""
    code = code_of(refused)
    if code in _GONE:
        return no_object(name)
    if code in _NO_TRANSFER:
        return NotFound(
            "no_transfer",
            f"the store knows no unfinished upload of {name}",
            "put the object anew: it was given up, or it is complete",
        )
    if code in _TAKEN:
        return taken(name)
    if code in _BEYOND:
        return InvalidRequest("bad_range", f"a range beyond the end of {name}")
    if code in _DENIED:
        return unavailable("it denies these credentials what they need")
    if code == "NoSuchBucket":
        return unavailable("there is no such bucket")
    return unavailable("it failed, or asks to slow down")


def no_object(name: str) -> NotFound:
    """It isn't there."""
    return NotFound(
        "no_object", f"the store has no object {name}", "restore it from a copy, or push again"
    )


def taken(name: str) -> Conflict:
    """Nothing is ever overwritten."""
    return Conflict(
        "object_exists",
        f"there is an object {name} already",
        "nothing is overwritten: push again, under fresh names",
    )


def unavailable(why: str) -> Unavailable:
    """No answer, or none that says yes or no."""
    return Unavailable(
        "store_unavailable",
        f"the object store gives no answer: {why}",
        "check the bucket, its endpoint and CA, and the credentials; then try again",
    )
