"""Standard input and output, which are the command's alone."""

from __future__ import annotations

import os
import sys


def let_go() -> None:
    """Have neither of them in this process any more.

    Whoever reads the command's output, or writes its input, must notice when the command closes it.
    """
    sys.stdout.flush()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(nothing, stream)
    if nothing > 1:
        os.close(nothing)
