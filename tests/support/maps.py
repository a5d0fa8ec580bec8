"""What the kernel says of this process's memory."""

from __future__ import annotations

import re
from pathlib import Path

_HEAD = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ")


def mapping(address: int) -> dict[str, str]:
    """The lines of `smaps` about the mapping that holds an address; empty where there is none."""
    found: dict[str, str] = {}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = _HEAD.match(line)
        if head:
            inside = int(head[1], 16) <= address < int(head[2], 16)
            if inside:
                found["permissions"] = line.split()[1]
        elif inside:
            name, _, value = line.partition(":")
            found[name] = value.strip()
    return found


def flags(address: int) -> set[str]:
    """Its flags, as `smaps` writes them: `dd` not dumped, `dc` not forked, `lo` locked."""
    return set(mapping(address).get("VmFlags", "").split())


def peak() -> int:
    """The most bytes that were ever resident in this process (`VmHWM`)."""
    return _status("VmHWM")


def swapped() -> int:
    """Bytes of this process that are swapped out (`VmSwap`)."""
    return _status("VmSwap")


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert found is not None
    return int(found[1]) * 1024
