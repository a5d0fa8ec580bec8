"""What all fuzz targets share.

A target is a file `fuzz_<name>.py` beside this one with

    SEEDS: list[bytes]                        inputs to start from, good ones among them
    def one_input(data: bytes) -> None         fails if anything but modelvault's errors escapes

and `if __name__ == "__main__": main(one_input, SEEDS)`. `test_targets.py` finds it and runs it on
its corpus and a few hundred mutations of it; with atheris installed,

    PYTHONPATH=tests python tests/fuzz/fuzz_<name>.py [libFuzzer's options]

goes on for as long as you let it.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain

from modelvault.errors import ModelVaultError

TOKENS = [
    b"", b"\0", b"\xff", b"\n", b"\\", b'"', b"{", b"}", b"[", b"]", b":", b",", b"-1", b"0",
    b"1e9", b"9007199254740993", b"null", b"true", b"NaN", b'"\\ud800"', b"../",
    b"\xe2\x80\xae", b"[" * 40, b"A" * 300, bytes(64),
]  # fmt: skip


@contextmanager
def only_our_errors() -> Iterator[None]:
    """Any modelvault error is a fine answer, if its message is one plain line with a code."""
    try:
        yield
    except ModelVaultError as error:
        check_message(error)


def check_message(error: ModelVaultError) -> None:
    """Fails unless it can be shown on one line of a terminal."""
    assert error.code.replace("_", "").isalnum(), error.code
    assert error.message.isprintable(), error.message
    assert len(error.message) < 3000, len(error.message)


def mutations(corpus: list[bytes], count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` inputs, the same each time: corpus entries cut, spliced, flipped and grown."""
    chance = random.Random(seed)  # noqa: S311 - to vary tests, not to keep secrets
    for _ in range(count):
        data = bytearray(chance.choice(corpus))
        for _ in range(chance.randint(1, 4)):
            at = chance.randint(0, len(data))
            end = min(len(data), at + chance.choice([0, 0, 1, 1, 2, 8, 64]))
            match chance.randrange(5):
                case 0:
                    data[at:end] = chance.choice(TOKENS)
                case 1:
                    data[at:end] = chance.randbytes(chance.randint(1, 8))
                case 2:
                    data[at:end] = data[at:end] * 2
                case 3:
                    other = chance.choice(corpus)
                    data[at:] = other[chance.randint(0, len(other)) :]
                case _:
                    if at < len(data):
                        data[at] ^= 1 << chance.randrange(8)
        yield bytes(data)


def main(one_input: Callable[[bytes], None], corpus: list[bytes]) -> None:
    """Run under atheris where it is installed, else on mutations of the corpus, for as long as
    libFuzzer's `-max_total_time` says (a minute by itself)."""
    try:
        import atheris
    except ImportError:
        _mutate(one_input, corpus, _seconds(sys.argv[1:]))
        return
    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


def _mutate(one_input: Callable[[bytes], None], corpus: list[bytes], seconds: int) -> None:
    print(f"atheris isn't installed: mutations of the corpus for {seconds} s", file=sys.stderr)
    end, done = time.monotonic() + seconds, 0
    for data in chain(corpus, mutations(corpus, 1 << 60, seed=random.randrange(1 << 30))):  # noqa: S311
        try:
            one_input(data)
        except BaseException:
            print(f"failed on {data.hex()}", file=sys.stderr)
            raise
        done += 1
        if time.monotonic() >= end:
            break
    print(f"{done:,} inputs", file=sys.stderr)


def _seconds(options: list[str]) -> int:
    name = "-max_total_time="
    given = [option.removeprefix(name) for option in options if option.startswith(name)]
    return int(given[-1]) if given else 60
