"""The child process of the in-process engine: run by its path, never imported by modelvault.

Standard input is a socket to the parent. A frame is a 4-byte big-endian length and that many
bytes. The first frame sets it up, each further one is an input document. Each answer is one frame
whose first byte says what it is: `R` ready, with the parser's facts about the modules as JSON; `F`
not ready, with what the parser refused; `V` the rule's value as JSON; `E` a failure and its place.
"""

from __future__ import annotations

import json
import re
import resource
import socket
import struct
import sys
from typing import Any


def main() -> None:
    """Serve until the parent hangs up."""
    parent = socket.socket(fileno=0)
    setup = json.loads(_receive(parent))
    # Before regorus comes in: its allocator would reserve 1 GiB first, outside any later limit.
    resource.setrlimit(resource.RLIMIT_AS, (setup["memory_bytes"], setup["memory_bytes"]))
    sys.path.append(setup["packages"])
    import regorus

    _confine()
    engine = regorus.Engine()
    if refused := load(engine, setup["modules"], setup["data"]):
        _send(parent, b"F" + json.dumps(refused).encode())
        return
    _send(parent, b"R" + json.dumps(facts(json.loads(engine.get_ast_as_json()))).encode())
    while question := _receive(parent):
        _allow_cpu(setup["cpu_s"])
        try:
            engine.set_input_json(question.decode())
            answer = b"V" + engine.eval_rule_as_json(setup["rule"]).encode()
        except RuntimeError as failure:
            answer = b"E" + _place(failure)
        if len(answer) > setup["answer_bytes"]:
            answer = b"Ethe answer is too long"
        _send(parent, answer)


def load(engine: Any, modules: dict[str, str], data: str) -> list[list[Any]]:  # noqa: ANN401
    """Give the engine all of it; returns what it refused as path, line and text."""
    refused: list[list[Any]] = []
    for path, text in modules.items():
        try:
            engine.add_policy(path, text)
        except RuntimeError as failure:
            where = re.search(r"--> .*:(\d+):\d+", str(failure))
            why = re.search(r"^error: (.*)", str(failure), re.MULTILINE)
            line = int(where[1]) if where else 0
            refused.append([path, line, why[1][:200] if why else "it doesn't parse"])
    try:
        engine.add_data_json(data)
    except RuntimeError:
        refused.append(["data.json", 0, "it can't be read"])
    return refused


def facts(tree: list[Any]) -> list[dict[str, Any]]:
    """For each module its path, package, rules and references, with lines."""
    return [
        {
            "path": module["source"]["file"],
            "package": _name(module["ast"]["package"]["refr"]),
            "rules": [_rule(rule) for rule in module["ast"]["rules"]],
            "references": sorted(_references(module["ast"]["rules"])),
        }
        for module in tree
    ]


def _rule(rule: dict[str, Any]) -> tuple[str, int]:
    (body,) = rule.values()
    head = body
    if "head" in body:
        (head,) = body["head"].values()
    return _first(head["refr"]), body["span"]["line"]


def _first(reference: dict[str, Any]) -> str:
    ((kind, node),) = reference.items()
    return str(node["value"]) if kind == "Var" else _first(node["refr"])


def _references(tree: object) -> set[tuple[str, int]]:
    """Every `a.b` and `a["b"]` that isn't below data or input, and every function called."""
    found: set[tuple[str, int]] = set()
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            todo.extend(node.values())
            for kind in node.keys() & {"RefDot", "RefBrack", "Call"}:
                name = _name(node["Call"]["fcn"] if kind == "Call" else node)
                if name.split(".")[0] not in {"", "data", "input"}:
                    found.add((name, node[kind]["span"]["line"]))
        elif isinstance(node, list):
            todo.extend(node)
    return found


def _name(node: dict[str, Any]) -> str:
    """The dotted name, or nothing where a part isn't a name."""
    if "Var" in node:
        return str(node["Var"]["value"])
    before, last = "", ""
    if "RefDot" in node:
        before, last = _name(node["RefDot"]["refr"]), node["RefDot"]["field"][1]
    elif "RefBrack" in node:
        before = _name(node["RefBrack"]["refr"])
        last = node["RefBrack"]["index"].get("String", {}).get("value", "")
    return f"{before}.{last}" if before and last else ""


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
    """`file:line`, no more: the library's text quotes values of the input."""
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
