"""FLOE (c2sp.org/FLOE): authenticated encryption of large files with random access.

AES-256-GCM segments, keys by HKDF-Expand-SHA-384, a key-committing header tag. The specification
as it stands; docs/format.md section 2 tells it in full. This module knows no files and does no
I/O: it turns one segment into another, and many threads may do so at once with one object.
Sizes are bytes; positions count segments from 0.
"""

from __future__ import annotations

import hmac
import os
import threading
import weakref

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from modelvault.crypto.secret import Secret
from modelvault.errors import IntegrityError, InvalidRequest

HEADER_BYTES = 74
OVERHEAD = 32  # length field 4, IV 12, tag 16
MAX_SEGMENTS = 1 << 40
_PARAMS_BYTES = 10
_FLOE_IV = 32
_AEAD_IV = 12
_TAG = 16
_INTERNAL = b"\xff\xff\xff\xff"

Buffer = bytes | bytearray | memoryview


class Geometry(msgspec.Struct, frozen=True):
    """Where things lie in a ciphertext whose encrypted segments are `segment_length` bytes long.

    `rotation_bits` is 20 but for vectors that want to see a key rotate early.
    """

    segment_length: int
    rotation_bits: int = 20

    def __post_init__(self) -> None:
        if not OVERHEAD < self.segment_length < 1 << 32:
            raise InvalidRequest("bad_segment_length", f"a segment of {self.segment_length} bytes")
        if not 0 <= self.rotation_bits <= 40:
            raise InvalidRequest("bad_rotation", f"a rotation mask of {self.rotation_bits} bits")

    @property
    def payload(self) -> int:
        """Plaintext bytes of a full segment."""
        return self.segment_length - OVERHEAD

    def segments(self, size: int) -> int:
        """Segments of `size` plaintext bytes: at least the final one, which may be empty."""
        return max(1, -(-size // self.payload))

    def ciphertext_size(self, size: int) -> int:
        """Bytes of the whole ciphertext, header included."""
        return HEADER_BYTES + size + OVERHEAD * self.segments(size)

    def plaintext_size(self, ciphertext_size: int) -> int:
        """The inverse of `ciphertext_size`; IntegrityError (`bad_length`) where there is none.

        A final segment that is exactly full and one that is empty after it are both written by
        some encryptors; the size is the same.
        """
        body = ciphertext_size - HEADER_BYTES
        segments = -(-body // self.segment_length)
        last = body - (segments - 1) * self.segment_length
        if body < OVERHEAD or last < OVERHEAD:
            raise IntegrityError("bad_length", "no ciphertext is this long")
        return body - OVERHEAD * segments

    def segment_at(self, position: int, size: int) -> tuple[int, int]:
        """(offset in the ciphertext, length) of a segment of a file of `size` plaintext bytes."""
        last = self.segments(size) - 1
        offset = HEADER_BYTES + position * self.segment_length
        if position < last:
            return offset, self.segment_length
        return offset, size - last * self.payload + OVERHEAD

    def params(self) -> bytes:
        """The header's first 10 bytes: AES-256-GCM, HKDF-Expand-SHA-384, segment and IV length."""
        return b"\0\0" + self.segment_length.to_bytes(4) + _FLOE_IV.to_bytes(4)


class _Keys:
    """Header tag and segment keys of one (key, IV, aad)."""

    def __init__(self, key: Secret, iv: bytes, aad: bytes, geometry: Geometry) -> None:
        self.geometry = geometry
        self._prefix = geometry.params() + iv
        self._aad = aad
        self._ciphers: dict[int, AESGCM] = {}
        self._lock = threading.Lock()
        self.header_tag = bytes(self._kdf(key, b"HEADER_TAG:", 32).reveal())
        self._message_key = self._kdf(key, b"MESSAGE_KEY:", 48)
        _living.add(self)

    def _kdf(self, key: Secret, purpose: bytes, size: int) -> Secret:
        expansion = HKDFExpand(SHA384(), size, self._prefix + purpose + self._aad)
        return Secret.filled(size, lambda out: expansion.derive_into(key.reveal(), out))

    def cipher(self, position: int) -> AESGCM:
        """The cipher for `position`: its key changes with every 2^rotation_bits segments."""
        if not 0 <= position < MAX_SEGMENTS:
            raise InvalidRequest("bad_position", f"no segment {position} in a ciphertext")
        era = position >> self.geometry.rotation_bits
        cipher = self._ciphers.get(era)
        if cipher is None:
            with self._lock:
                cipher = self._ciphers.get(era) or self._derive(era)
        return cipher

    def _derive(self, era: int) -> AESGCM:
        masked = era << self.geometry.rotation_bits
        with self._kdf(self._message_key, b"DEK:" + masked.to_bytes(8), 32) as key:
            cipher = self._ciphers[era] = AESGCM(key.reveal())
        return cipher

    def rest(self) -> None:
        """Let go of the ciphers: the library's memory isn't guarded, and a new one costs little."""
        with self._lock:
            self._ciphers = {}

    def forked(self) -> None:
        """In a child whose parent kept its keys: what the library made of them goes, too."""
        if self._message_key.absent:
            self._ciphers = {}
            self._lock = threading.Lock()

    def wipe(self) -> None:
        # Under the lock: a key derived while the message key turns into zeros would be one that
        # everybody can compute.
        with self._lock:
            self._message_key.wipe()
            self._ciphers.clear()


_living: weakref.WeakSet[_Keys] = weakref.WeakSet()


def _after_fork() -> None:
    for keys in list(_living):
        keys.forked()


os.register_at_fork(after_in_child=_after_fork)


def _associated(position: int, final: bool) -> bytes:
    return position.to_bytes(8) + (b"\x01" if final else b"\x00")


def _opened(key: Secret, aad: bytes, geometry: Geometry, header: Buffer) -> _Keys:
    """The keys under a header, which is checked. Raises IntegrityError."""
    head = bytes(header)
    if len(head) != HEADER_BYTES or head[:_PARAMS_BYTES] != geometry.params():
        raise IntegrityError("bad_header", "the ciphertext's header isn't the expected one")
    keys = _Keys(key, head[_PARAMS_BYTES : _PARAMS_BYTES + _FLOE_IV], aad, geometry)
    if not hmac.compare_digest(keys.header_tag, head[_PARAMS_BYTES + _FLOE_IV :]):
        keys.wipe()
        raise IntegrityError(
            "bad_header_tag", "the ciphertext's header doesn't fit its key and name"
        )
    return keys


class Encryptor:
    """Encrypts the segments of one plaintext under one fresh header. Thread-safe.

    The caller gives each position once: a position encrypted twice gets another IV, so that is
    no disaster, but only one of the two belongs into the file.
    """

    def __init__(
        self, key: Secret, aad: bytes, geometry: Geometry, header: Buffer | None = None
    ) -> None:
        """Under a fresh header, or to go on under the one that an earlier run began with.

        Raises IntegrityError (`bad_header`, `bad_header_tag`) for a header of another key, name or
        geometry.
        """
        self.geometry = geometry
        if header is not None:
            self._keys = _opened(key, aad, geometry, header)
            self.header = bytes(header)
            return
        iv = os.urandom(_FLOE_IV)
        self._keys = _Keys(key, iv, aad, geometry)
        self.header = geometry.params() + iv + self._keys.header_tag

    def encrypt_into(self, position: int, plaintext: Buffer, final: bool, out: memoryview) -> None:
        """Write the encrypted segment into `out`, which is len(plaintext) + 32 bytes long.

        An internal segment's plaintext is exactly `geometry.payload` bytes, the final one's at
        most that. Raises InvalidRequest for other sizes.
        """
        size = len(plaintext)
        full = self.geometry.payload
        if len(out) != size + OVERHEAD or size > full or (size != full and not final):
            raise InvalidRequest("bad_segment", f"segment {position} of {size} bytes doesn't fit")
        nonce = os.urandom(_AEAD_IV)
        out[:4] = len(out).to_bytes(4) if final else _INTERNAL
        out[4:16] = nonce
        self._keys.cipher(position).encrypt_into(
            nonce, plaintext, _associated(position, final), out[16:]
        )

    def wipe(self) -> None:
        """Forget the keys. What libraries copied inside themselves goes when they free it."""
        self._keys.wipe()


class Decryptor:
    """Decrypts segments in any order. Thread-safe."""

    def __init__(self, key: Secret, aad: bytes, geometry: Geometry, header: Buffer) -> None:
        """Checks the header before anything else.

        Raises IntegrityError: `bad_header` (length or parameters), `bad_header_tag` (another
        key, associated data or IV).
        """
        self.geometry = geometry
        self._keys = _opened(key, aad, geometry, header)

    def decrypt_into(self, position: int, segment: Buffer, final: bool, out: memoryview) -> None:
        """Write the plaintext into `out`, which is len(segment) - 32 bytes long.

        On any error `out` holds nothing of the plaintext. Raises IntegrityError: `bad_length`
        (length field or size), `bad_tag` (altered, moved, or not final when it should be).
        """
        size = len(segment)
        field = bytes(segment[:4])
        whole = self.geometry.segment_length
        fits = OVERHEAD <= size <= whole if final else size == whole
        if not fits or field != (size.to_bytes(4) if final else _INTERNAL):
            raise IntegrityError("bad_length", f"segment {position} has a wrong length")
        if len(out) != size - OVERHEAD:
            raise InvalidRequest(
                "bad_buffer", f"a buffer of {len(out)} for {size - OVERHEAD} bytes"
            )
        view = memoryview(segment)
        try:
            self._keys.cipher(position).decrypt_into(
                view[4:16], view[16:], _associated(position, final), out
            )
        except InvalidTag:
            out[:] = bytes(len(out))  # the library has decrypted before it compared the tag
            raise IntegrityError("bad_tag", f"segment {position} was altered or moved") from None

    def rest(self) -> None:
        """Have no key in a library's memory until the next segment. Any thread, at any time."""
        self._keys.rest()

    def wipe(self) -> None:
        """Forget the keys. What libraries copied inside themselves goes when they free it."""
        self._keys.wipe()
