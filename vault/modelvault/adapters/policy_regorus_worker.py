"""The child process of the in-process engine: run by its path, never imported by modelvault.

Standard input is a socket to the parent. Frames are a 4-byte big-endian length and that many
bytes. The first frame sets it up, each further one is an input document; each answer is one frame
whose first byte says what it is: `R` ready, `V` the rule's value as JSON, `E` a failure and where.
"""

from __future__ import annotations

import json
import re
import resource
import socket
import struct
import sys
from typing import Any

FORBIDDEN = frozenset({"http.send", "opa.runtime", "rand.intn", "time.now_ns", "uuid.rfc4122"})


def main() -> None:
    """Serve until the parent hangs up."""
    parent = socket.socket(fileno=0)
    setup = json.loads(_receive(parent))
    # Before regorus comes in: its allocator would reserve 1 GiB first, outside any later limit.
    resource.setrlimit(resource.RLIMIT_AS, (setup["memory_bytes"], setup["memory_bytes"]))
    sys.path.append(setup["packages"])
    import regorus

    _confine()
    try:
        engine = load(regorus.Engine(), setup["modules"], setup["data"])
    except (RuntimeError, ValueError) as failure:
        _send(parent, b"E" + _place(failure))
        return
    _send(parent, b"R")
    while question := _receive(parent):
        _allow_cpu(setup["cpu_s"])
        try:
            engine.set_input_json(question.decode())
            answer = b"V" + engine.eval_rule_as_json(setup["rule"]).encode()
        except (RuntimeError, ValueError) as failure:
            answer = b"E" + _place(failure)
        _send(
            parent, answer if len(answer) <= setup["answer_bytes"] else b"Eits answer is too long"
        )


def load(engine: Any, modules: dict[str, str], data: str) -> Any:  # noqa: ANN401
    """An engine with modules and data; ValueError for what must not be in them."""
    for path, text in modules.items():
        engine.add_policy(path, text)
    for name in _dotted(json.loads(engine.get_ast_as_json())):
        if name in FORBIDDEN:
            raise ValueError(f"forbidden builtin {name}")
    for package in engine.get_packages():
        _check_free(json.loads(data), package.split(".")[1:])
    engine.add_data_json(data)
    return engine


def _check_free(data: Any, package: list[str]) -> None:  # noqa: ANN401
    """Data at a package's place would silently take its rules' place."""
    for part in package:
        if not isinstance(data, dict):
            break
        if part not in data:
            return
        data = data[part]
    raise ValueError("data stands where a package is")


def _dotted(node: Any) -> set[str]:  # noqa: ANN401
    """Every `a.b` and `a["b"]` of variables in the syntax tree."""
    found: set[str] = set()
    todo = [node]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            name = _name(node)
            found |= {name} if name else set()
            todo.extend(node.values())
        elif isinstance(node, list):
            todo.extend(node)
    return found


def _name(node: Any) -> str:  # noqa: ANN401
    if "Var" in node:
        return str(node["Var"]["value"])
    for kind, field in (("RefDot", "field"), ("RefBrack", "index")):
        if kind in node:
            before, last = _name(node[kind]["refr"]), node[kind][field]
            last = last.get("String", last) if isinstance(last, dict) else last[-1]
            value = last.get("value") if isinstance(last, dict) else last
            return f"{before}.{value}" if before and isinstance(value, str) else ""
    return ""


def _confine() -> None:
    """No new file or connection, nothing written, no core dump with an input in it."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _allow_cpu(seconds: int) -> None:
    """Seconds for this one question: the end of a loop whose parent died."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _place(failure: Exception) -> bytes:
    """`file:line` or our own words; the library's text quotes values of the input."""
    if isinstance(failure, ValueError):
        return str(failure).encode()[:200]
    where = re.search(r"--> ([\w./-]{1,120}:\d+)", str(failure))
    return f"an error at {where[1]}".encode() if where else b"an error"


def _receive(parent: socket.socket) -> bytes:
    head = parent.recv(4, socket.MSG_WAITALL)
    if len(head) < 4:
        return b""
    return parent.recv(struct.unpack(">I", head)[0], socket.MSG_WAITALL)


def _send(parent: socket.socket, frame: bytes) -> None:
    parent.sendall(struct.pack(">I", len(frame)) + frame)


if __name__ == "__main__":
    main()
