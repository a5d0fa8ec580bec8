"""How a process ends that may not outlive its lease (the obligation `terminate_on_revoke`)."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable


def this_process(grace_s: int) -> Callable[[], None]:
    """Have it get SIGKILL when the grace is over, wherever it is by then.

    What this returns is to be called once the job was told: it sends SIGTERM.
    """
    process = os.getpid()
    try:
        last = threading.Timer(grace_s, os.kill, (process, signal.SIGKILL))
        last.daemon = True
        last.start()
    except RuntimeError:  # no further thread can be had, so nobody could keep the time
        os.kill(process, signal.SIGKILL)
    return lambda: os.kill(process, signal.SIGTERM)
