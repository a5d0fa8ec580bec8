"""Make the failure vectors in vectors/floe: one file for each way a ciphertext can be wrong.

    PYTHONPATH=tests python -m vectors.make_floe

Each file names the class of failure, what a bare reader is given (key, associated data, segment
length, rotation bits, the ciphertext's hex) and the error code that it must end with; `at` says
whether at opening or while reading. Nothing is random, so running it again changes nothing, and
a test sees to it that the files are what this makes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from oracle.second_writer import Floe

FOLDER = Path(__file__).parent / "floe"
LENGTH = 64
PLAIN = bytes(range(80))  # two internal segments of 32, a final one of 16


def seed(text: str, size: int = 32) -> bytes:
    """Bytes that look random and are the same each time."""
    return hashlib.shake_128(b"modelvault floe vectors " + text.encode()).digest(size)


KEY = seed("key")
AAD = b"modelvault/file/v1\0" + b"0123456789abcdef" * 2 + b"\0weights.bin"


def nonce(position: int) -> bytes:
    return seed(f"nonce {position}", 12)


def floe(name: str = "", **changes: object) -> Floe:
    arguments: dict = {"key": KEY, "aad": AAD, "length": LENGTH, "iv": seed("iv" + name)} | changes
    return Floe(**arguments)


GOOD = floe().parts(PLAIN, nonce)
HEADER, FIRST, SECOND, FINAL = GOOD


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def join(*parts: bytes) -> bytes:
    return b"".join(parts)


def header_cases() -> Iterator[tuple[str, str, bytes]]:
    body = join(FIRST, SECOND, FINAL)
    yield "header_empty_file", "bad_header", b""
    yield "header_short", "bad_header", HEADER[:-1]
    yield "header_without_a_byte", "bad_header_tag", HEADER[:-1] + body
    yield "header_other_aead", "bad_header", b"\1" + HEADER[1:] + body
    yield "header_other_kdf", "bad_header", flip(HEADER, 1) + body
    yield "header_other_segment_length", "bad_header", flip(HEADER, 5) + body
    yield "header_other_iv_length", "bad_header", flip(HEADER, 9) + body
    yield "header_flipped_iv", "bad_header_tag", flip(HEADER, 10) + body
    yield "header_flipped_tag", "bad_header_tag", flip(HEADER, 42) + body
    yield "header_flipped_tag_end", "bad_header_tag", flip(HEADER, 73) + body
    yield "header_of_another_file", "bad_tag", floe(" other").header + body


def size_cases() -> Iterator[tuple[str, str, bytes]]:
    yield "size_only_a_header", "bad_length", HEADER
    yield "size_missing_final", "bad_length", join(HEADER, FIRST, SECOND)
    yield "size_cut_after_first", "bad_length", join(HEADER, FIRST)
    yield "size_cut_in_first", "bad_length", join(HEADER, FIRST[:-1])
    yield "size_cut_in_second", "bad_length", join(HEADER, FIRST, SECOND[:40])
    yield "size_cut_to_a_stub", "bad_length", join(HEADER, FIRST, SECOND, FINAL[:31])
    yield "size_final_short", "bad_length", join(*GOOD)[:-1]
    yield "size_final_long", "bad_length", join(*GOOD, b"\0")
    yield "size_trailing_segment", "bad_tag", join(*GOOD[:3], FINAL_FULL, FINAL_FULL)
    yield "size_trailing_stub", "bad_length", join(*GOOD[:3], FINAL_FULL, FINAL[:31])
    yield "size_second_final_behind", "bad_tag", join(*GOOD[:3], FINAL_FULL, FINAL)


FINAL_FULL = floe().segment(2, PLAIN[:32], nonce(2), final=True)


def field_cases() -> Iterator[tuple[str, str, bytes]]:
    def first(field: bytes) -> bytes:
        return join(HEADER, field, FIRST[4:], SECOND, FINAL)

    def last(field: bytes) -> bytes:
        return join(HEADER, FIRST, SECOND, field, FINAL[4:])

    yield "field_internal_is_its_length", "bad_length", first(LENGTH.to_bytes(4))
    yield "field_internal_is_zero", "bad_length", first(bytes(4))
    yield "field_internal_flipped", "bad_length", first(b"\xff\xff\xff\xfe")
    yield "field_final_is_internal", "bad_length", last(b"\xff" * 4)
    yield "field_final_one_less", "bad_length", last((len(FINAL) - 1).to_bytes(4))
    yield "field_final_one_more", "bad_length", last((len(FINAL) + 1).to_bytes(4))
    yield "field_final_is_zero", "bad_length", last(bytes(4))
    yield "field_final_in_little_endian", "bad_length", last(FINAL[3::-1])


def order_cases() -> Iterator[tuple[str, str, bytes]]:
    another = floe(" other").parts(PLAIN, nonce)
    other_name = floe(aad=AAD + b"2").parts(PLAIN, nonce)
    yield "order_swapped", "bad_tag", join(HEADER, SECOND, FIRST, FINAL)
    yield "order_repeated_in_place", "bad_tag", join(HEADER, FIRST, FIRST, FINAL)
    yield "order_repeated_and_longer", "bad_tag", join(HEADER, FIRST, FIRST, SECOND, FINAL)
    yield "order_dropped_first", "bad_tag", join(HEADER, SECOND, FINAL)
    yield "order_dropped_second", "bad_tag", join(HEADER, FIRST, FINAL)
    yield "order_internal_of_another_file", "bad_tag", join(HEADER, another[1], SECOND, FINAL)
    yield "order_final_of_another_file", "bad_tag", join(HEADER, FIRST, SECOND, another[3])
    yield "order_internal_of_another_name", "bad_tag", join(HEADER, other_name[1], SECOND, FINAL)


def bit_cases() -> Iterator[tuple[str, str, bytes]]:
    for name, at in (("nonce", 4), ("ciphertext", 16), ("tag", -1)):
        flipped = flip(FIRST, at % len(FIRST))
        yield f"bit_internal_{name}", "bad_tag", join(HEADER, flipped, SECOND, FINAL)
        flipped = flip(FINAL, at % len(FINAL))
        yield f"bit_final_{name}", "bad_tag", join(HEADER, FIRST, SECOND, flipped)


def flag_cases() -> Iterator[tuple[str, str, bytes]]:
    first = floe().segment(0, PLAIN[:32], nonce(0), final=True, field=b"\xff" * 4)
    yield "flag_internal_sealed_as_final", "bad_tag", join(HEADER, first, SECOND, FINAL)
    field = len(FINAL).to_bytes(4)
    last = floe().segment(2, PLAIN[64:], nonce(2), final=False, field=field)
    yield "flag_final_sealed_as_internal", "bad_tag", join(HEADER, FIRST, SECOND, last)
    cut = LENGTH.to_bytes(4) + SECOND[4:]
    yield "flag_internal_passed_off_as_final", "bad_tag", join(HEADER, FIRST, cut)


def vector(name: str, code: str | None, ciphertext: bytes, **changes: object) -> dict:
    """One vector; opening must fail unless only reading the whole can show the defect."""
    given: dict = {
        "name": name,
        "class": name.split("_", maxsplit=1)[0],
        "key": KEY.hex(),
        "aad": AAD.hex(),
        "segment_length": LENGTH,
        "rotation_bits": 20,
        "ciphertext": ciphertext.hex(),
        "error": code,
        "plaintext": PLAIN.hex() if code is None else None,
    }
    return given | changes


def vectors() -> Iterator[dict]:
    cases = (header_cases, size_cases, field_cases, order_cases, bit_cases, flag_cases)
    for family in cases:
        for name, code, ciphertext in family():
            yield vector(name, code, ciphertext)
    good = join(*GOOD)
    yield vector("good", None, good)
    yield vector("good_empty", None, join(*floe().parts(b"", nonce)), plaintext="")
    yield vector(
        "good_full_final", None, join(*floe().parts(PLAIN[:64], nonce)), plaintext=PLAIN[:64].hex()
    )
    yield vector("key_wrong", "bad_header_tag", good, key=flip(KEY, 0).hex())
    yield vector("aad_wrong", "bad_header_tag", good, aad=(AAD + b"\0").hex())
    yield vector("aad_empty", "bad_header_tag", good, aad="")
    yield vector("length_expected_another", "bad_header", good, segment_length=LENGTH * 2)
    short = Floe(KEY, AAD, 32, seed("iv"))
    only_final = join(short.header, short.segment(0, b"", nonce(0), final=True))
    yield vector("length_too_short", "bad_segment_length", only_final, segment_length=32)
    rotated = floe(bits=1).parts(PLAIN, nonce)
    yield vector("good_rotated", None, join(*rotated), rotation_bits=1)
    yield vector("rotation_expected_another", "bad_tag", join(*rotated))


def contents() -> dict[str, str]:
    """{file name: text} of all vectors."""
    return {
        f"{made['name']}.json": json.dumps(made, indent=1, sort_keys=True) + "\n"
        for made in vectors()
    }


if __name__ == "__main__":
    for name, text in contents().items():
        (FOLDER / name).write_text(text)
