"""What a broker's process does for the keys that pass through its memory."""

from __future__ import annotations

import ctypes
import logging
import resource

_LOG = logging.getLogger("modelvault.hardening")
_PR_SET_DUMPABLE = 4
_MCL_CURRENT, _MCL_FUTURE = 1, 2


def harden() -> None:
    """No core dumps, no reading of this memory by other processes of the same user, and no swap
    where the limit on locked memory allows. What isn't possible is said in the log, and no reason
    not to serve: `doctor` shows it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "prctl"):
        return
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        _LOG.warning("the process stays dumpable")
    unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    if not unlimited or libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) != 0:
        _LOG.warning("memory isn't locked: turn swap off, or raise the limit on locked memory")
