"""Run a program under a seccomp profile in Docker's format: `seccomp.py PROFILE PROGRAM …`.

A program of its own, of the standard library alone: it is what a container runtime does last. It
speaks to libseccomp. Calls that this libseccomp has no name for stay forbidden.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os
import sys
from pathlib import Path
from typing import Any

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_COMPARE = {
    "SCMP_CMP_NE": 1, "SCMP_CMP_LT": 2, "SCMP_CMP_LE": 3, "SCMP_CMP_EQ": 4, "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6, "SCMP_CMP_MASKED_EQ": 7,
}  # fmt: skip


class _Argument(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


def library() -> ctypes.CDLL | None:
    """libseccomp, if it is on this machine."""
    found = ctypes.util.find_library("seccomp")
    return None if found is None else ctypes.CDLL(found, use_errno=True)


def apply(profile: dict[str, Any]) -> None:
    """From here on this process may do what the profile grants a process without capabilities."""
    lib = library()
    if lib is None:
        raise OSError("libseccomp isn't here")
    lib.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(lib.seccomp_init(ctypes.c_uint32(_action(profile, "defaultAction"))))
    for rule in profile["syscalls"]:
        if _holds(rule):
            for name in rule["names"]:
                _add(lib, context, rule, name)
    _check(lib.seccomp_load(context), "seccomp_load")
    lib.seccomp_release(context)


def _holds(rule: dict[str, Any]) -> bool:
    """Whether a rule is for us: an x86-64 or arm64 of today's kernels, without any capability."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    kernel = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    needed = tuple(int(part) for part in includes.get("minKernel", "0.0").split("."))
    return (
        not includes.get("caps")
        and machine in (includes.get("arches") or [machine])
        and machine not in (excludes.get("arches") or [])
        and kernel >= needed
    )


def _add(lib: ctypes.CDLL, context: ctypes.c_void_p, rule: dict[str, Any], name: str) -> None:
    number = lib.seccomp_syscall_resolve_name(name.encode())
    action = _action(rule, "action")
    if number < 0 or action == _action({"defaultErrnoRet": 1, "a": "SCMP_ACT_ERRNO"}, "a"):
        return
    told = rule.get("args") or []
    arguments = (_Argument * len(told))(
        *(
            _Argument(one["index"], _COMPARE[one["op"]], one["value"], one.get("valueTwo", 0))
            for one in told
        )
    )
    code = lib.seccomp_rule_add_array(
        context, ctypes.c_uint32(action), number, len(told), arguments
    )
    _check(code, name)


def _action(values: dict[str, Any], field: str) -> int:
    if values[field] == "SCMP_ACT_ALLOW":
        return _ALLOW
    if values[field] == "SCMP_ACT_ERRNO":
        return _ERRNO | int(values.get("errnoRet", values.get("defaultErrnoRet", 1)))
    raise ValueError(f"the profile has an action that isn't known here: {values[field]}")


def _check(code: int, what: str) -> None:
    if code != 0:
        raise OSError(-code, f"{what}: {os.strerror(-code)}")


def main(path: str, *command: str) -> None:
    apply(json.loads(Path(path).read_bytes()))
    os.execvp(command[0], command)  # noqa: S606  what it is for


if __name__ == "__main__":
    main(*sys.argv[1:])
