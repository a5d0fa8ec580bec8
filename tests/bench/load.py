"""Load and push against what people use without encryption, and against cryptotensors.

Everything of ours goes through the public Session: policy, lease, verification, decryption.
"""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from measure import back_memory, interleaved, report
from weights import human, mmap_and, read_all, touch, write_safetensors

import modelvault
from modelvault import wiring
from modelvault.client.session import Session

ROUNDS = 7
PUSH_ROUNDS = 5


@contextmanager
def vault(folder: Path) -> Iterator[Session]:
    """A fresh embedded vault with one model `m`."""
    os.environ["XDG_CONFIG_HOME"] = str(folder / "config")  # where the root key goes
    wiring.init(folder / "home")
    with modelvault.connect(home=folder / "home") as session:
        session.create("m")
        yield session


def ours(session: Session, reference: str, use: Callable[[memoryview], int] = touch) -> None:
    """Lease, verify, decrypt all, use it, wipe."""
    with session.load(reference, purpose="inference") as model:
        views = model.tensors()
        for view in views.values():
            use(memoryview(view).cast("B"))
        del view, views


def plain_numpy(path: Path) -> None:
    from safetensors.numpy import load_file

    for array in load_file(path).values():
        touch(memoryview(array).cast("B"))


def cryptotensors_file(plain: Path, path: Path) -> list[dict[str, str]]:
    """The same tensors in cryptotensors' format; its keys, registered in this process."""
    import cryptotensors
    from cryptotensors.numpy import save_file
    from safetensors.numpy import load_file

    def text(data: bytes) -> str:
        return base64.b64encode(data).decode()

    signer = Ed25519PrivateKey.generate()
    encrypting = {"kty": "oct", "alg": "aes256gcm", "k": text(os.urandom(32)), "kid": "bench-e"}
    signing = {
        "kty": "okp",
        "alg": "ed25519",
        "d": text(signer.private_bytes_raw()),
        "x": text(signer.public_key().public_bytes_raw()),
        "kid": "bench-s",
    }
    keys = [encrypting, signing]
    cryptotensors.register_tmp_key_provider(keys=keys)
    save_file(load_file(plain), path, config={"enc_key": encrypting, "sign_key": signing})
    return keys


def cryptotensors_load(path: Path) -> None:
    from cryptotensors.numpy import load_file

    for array in load_file(path).values():
        touch(memoryview(array).cast("B"))


class OneShot:
    """OpenSSL's AES-256-GCM over the whole file at once, one thread: the cipher's own cost."""

    def __init__(self, plain: Path) -> None:
        self._cipher = AESGCM(AESGCM.generate_key(256))
        self._sealed = self._cipher.encrypt(bytes(12), plain.read_bytes(), None)
        self._out = np.empty(len(self._sealed) - 16, np.uint8)

    def __call__(self) -> None:
        self._cipher.decrypt_into(bytes(12), self._sealed, None, memoryview(self._out))


def load_case(folder: Path, name: str, size: int, tensors: int) -> None:
    """All loads of one file, from a warm page cache, in one interleaved run."""
    folder.mkdir()
    plain, other = folder / "model.safetensors", folder / "model.cryptotensors"
    write_safetensors(plain, size, tensors)
    cryptotensors_file(plain, other)
    with vault(folder) as session:
        session.push(plain, "m:bench")
        seconds = interleaved(
            {
                "ours": lambda: ours(session, "m:bench"),
                "ours, read": lambda: ours(session, "m:bench", read_all),
                "mmap": lambda: mmap_and(touch, plain),
                "mmap, read": lambda: mmap_and(read_all, plain),
                "numpy": lambda: plain_numpy(plain),
                "cryptotensors": lambda: cryptotensors_load(other),
                "openssl": OneShot(plain),
            },
            ROUNDS,
            prepare=lambda: back_memory(3 * size),
        )
    for mine, key, label, goal in (
        ("ours", "mmap", "mmap and touch every page", 1.6),
        ("ours, read", "mmap, read", "mmap and read every byte", 1.6),
        ("ours", "numpy", "safetensors.numpy.load_file", 0.35),
        ("ours", "cryptotensors", "cryptotensors load_file", 1 / 3),
        ("ours", "openssl", "OpenSSL AES-256-GCM, one shot, memory to memory", 4.0),
    ):
        report(
            "load",
            name,
            ours=seconds[mine],
            other=seconds[key],
            other_name=label,
            unit="s",
            goal=round(goal, 3),
        )
    shutil.rmtree(folder)


def push_case(folder: Path, size: int) -> None:
    """Push against copying the same file to the same disk, both made durable."""
    folder.mkdir()
    plain = folder / "model.safetensors"
    write_safetensors(plain, size, 32)

    with vault(folder) as session:

        def copy() -> None:
            shutil.copyfile(plain, folder / "copy")
            with (folder / "copy").open("rb") as file:
                os.fsync(file.fileno())

        def tidy() -> None:
            """Both begin with as much free space and as few dirty pages."""
            (folder / "copy").unlink(missing_ok=True)
            for stored in (folder / "home" / "objects").rglob("*"):
                if stored.is_file():
                    stored.unlink()
            os.sync()

        cases = {"ours": lambda: session.push(plain, "m", upload_all=True), "cp": copy}
        seconds = interleaved(cases, PUSH_ROUNDS, tidy=tidy)
    report(
        "push",
        human(size),
        ours=seconds["ours"],
        other=seconds["cp"],
        other_name="cp and fsync",
        unit="s",
        goal=1.3,
    )
    shutil.rmtree(folder)
