"""Standard input and output, which are the command's alone."""

from __future__ import annotations

import os
import sys


def open_all() -> None:
    """Have all three: who was started without one must not get its number for something else."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
            os.set_inheritable(number, True)
    # Python has none where it was started without.
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def let_go() -> None:
    """Have neither input nor output in this process any more.

    Whoever reads the command's output, or writes its input, must notice when the command closes it.
    """
    sys.stdout.flush()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(nothing, stream)
    os.close(nothing)
