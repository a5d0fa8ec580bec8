"""Where the command begins: until `main` can answer for an interrupt, one ends it quietly.

Imports take a while, and Python answers Ctrl-C in them with a traceback. Only the program itself
imports this module: it sets how the process takes the signal.
"""

import os

_INTERRUPTED = 130  # as main.EXIT_INTERRUPTED, which isn't there yet


def _leave(_number: int, _frame: object) -> None:
    # Nothing was done yet. No exception: within an import it could come out as another one.
    os._exit(_INTERRUPTED)


try:
    import signal  # takes a while, too

    _ASKED = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else it is ignored
    if _ASKED:
        signal.signal(signal.SIGINT, _leave)
except KeyboardInterrupt:
    os._exit(_INTERRUPTED)


def run() -> int:
    """`main.run`, which is told of interrupts from there on."""
    from modelvault_cli import main

    try:
        if _ASKED:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return main.run()
    except KeyboardInterrupt:  # a second one, while `main` told of the first
        return _INTERRUPTED
