"""Policies as OPA takes them: a gzipped tar with a manifest, Rego, data, and a signature over all.

The format is OPA's (openpolicyagent.org/docs/management-bundles, "Bundle File Format" and
"Signing"): `.signatures.json` holds one JWT that lists the SHA-256 of every other file. Of JSON
files OPA hashes the value and not the bytes, written with sorted keys and without spaces.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from modelvault import canonical
from modelvault.errors import IntegrityError, InvalidRequest
from modelvault.policy.bundle import MAX_BYTES, Bundle

ROOTS = ("modelvault",)
SCOPE = "modelvault"
KEY_ID = "modelvault-bundle"
MAX_FILES = 1000

_MANIFEST = ".manifest"
_DATA = "modelvault/data.json"
_SIGNATURES = ".signatures.json"

Sign = Callable[[bytes], bytes]


def pack(bundle: Bundle, sign: Sign | None) -> bytes:
    """The archive of `bundle`; `sign` gives an ES256 signature (64 bytes), None leaves it unsigned.

    The same bundle gives the same bytes but for the signature, which is random.
    """
    manifest = {"revision": bundle.revision, "roots": list(ROOTS), "rego_version": 1}
    structured: dict[str, Any] = {_MANIFEST: manifest, _DATA: bundle.data}
    files = {path: text.encode() for path, text in bundle.modules.items()}
    hashes = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    for path, value in structured.items():
        files[path] = _as_opa_writes(value)
        hashes[path] = hashlib.sha256(files[path]).hexdigest()
    if sign is not None:
        token = _token(hashes, sign)
        files[_SIGNATURES] = json.dumps({"signatures": [token]}).encode()
    return gzip.compress(_tar(files), mtime=0)


def unpack(archive: bytes) -> Bundle:
    """The bundle in an archive that `pack` made. Whose it is, its revision must tell.

    Raises IntegrityError (`bad_policy_archive`), before anything large is unpacked.
    """
    try:
        files = _files(archive)
        data = canonical.loads(files.pop(_DATA), MAX_BYTES)
        modules = {
            path: content.decode()
            for path, content in files.items()
            if path not in {_MANIFEST, _SIGNATURES}
        }
    except (KeyError, ValueError, EOFError, OSError, tarfile.TarError, zlib.error, InvalidRequest):
        raise _bad("it isn't an archive of policies") from None
    if not isinstance(data, dict) or not all(path.endswith(".rego") for path in modules):
        raise _bad("it holds other files than policies")
    return Bundle(modules=modules, data=data)


def _tar(files: Mapping[str, bytes]) -> bytes:
    """Sorted, and with nothing in it of the machine or the moment."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(files):
            info = tarfile.TarInfo(path)
            info.size = len(files[path])
            info.mode = 0o644
            tar.addfile(info, io.BytesIO(files[path]))
    return out.getvalue()


def _files(archive: bytes) -> dict[str, bytes]:
    """The files by path. Read out of memory only: no name in it ever reaches a file system."""
    unzip = zlib.decompressobj(wbits=31)
    limit = 2 * MAX_BYTES
    content = unzip.decompress(archive, limit)
    if len(content) == limit or not unzip.eof or unzip.unused_data:
        raise ValueError("too large, cut, or followed by something else")
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            if file is None or member.name in files or len(files) == MAX_FILES:
                raise ValueError("not a plain file, a name twice, or too many")
            files[member.name] = file.read()
    return files


def _token(hashes: Mapping[str, str], sign: Sign) -> str:
    """The JWT of `.signatures.json` (RFC 7515, compact)."""
    header = {"alg": "ES256", "kid": KEY_ID, "typ": "JWT"}
    files = [
        {"name": path, "hash": digest, "algorithm": "SHA-256"}
        for path, digest in sorted(hashes.items())
    ]
    claims = {"files": files, "scope": SCOPE, "keyid": KEY_ID}
    signed = ".".join(map(_base64url, (canonical.dumps(header), canonical.dumps(claims))))
    return f"{signed}.{_base64url(sign(signed.encode('ascii')))}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _as_opa_writes(value: object) -> bytes:
    """JSON just as OPA's hasher writes it: Go's encoder, keys sorted by their bytes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "".join(_as_go_writes(text)).encode()


def _as_go_writes(text: str) -> Iterable[str]:
    # Go escapes these two even where it leaves HTML alone; Python doesn't.
    return ({"\u2028": "\\u2028", "\u2029": "\\u2029"}.get(char, char) for char in text)


def _bad(why: str) -> IntegrityError:
    return IntegrityError(
        "bad_policy_archive",
        f"a kept policy can't be read: {why}",
        "publish the policy again, or roll back to one that can be read",
    )
