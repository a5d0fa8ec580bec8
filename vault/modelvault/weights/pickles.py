"""Does a file begin with a pickle? Its opcodes are walked over; nothing of it is decoded or run."""

from __future__ import annotations

import pickletools
import re
from collections.abc import Iterator

_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_LENGTH_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
# What protocol 0 writes behind an opcode, up to the end of the line.
_NUMBER = re.compile(rb"[-+.\deEL]{1,400}\n")
_NAME = rb"[A-Za-z_][\w.]*\n"
_LINES = {
    "GLOBAL": re.compile(_NAME + _NAME),
    "INST": re.compile(_NAME + _NAME),
    "STRING": re.compile(rb"""(['"])[^\n]*\1\n"""),
    "UNICODE": re.compile(rb"[^\n]*\n"),
    "PERSID": re.compile(rb"[^\n]*\n"),
}
_HEADER = re.compile(rb"\x80[\x02-\x05]")


def has_header(head: bytes) -> bool:
    """Whether a pickle of protocol 2 or later begins here: version and an opcode behind it."""
    return _HEADER.match(head) is not None and head[2:3] in _OPCODES


def runs_on(head: bytes) -> bool:
    """Whether `head` is a pickle of any protocol: a program that ends in it, or that goes on.

    Letters are opcodes too, so what counts must keep its stack and be more than a word: three
    opcodes before the end, or, where that isn't in sight, five that aren't lines of text.
    """
    program = list(_walk(head))
    if not program:
        return False
    last, position = program[-1]
    if last.name == "STOP":
        return len(program) > 3
    return position >= len(head) and sum(not _is_line(opcode) for opcode, _ in program) >= 5


def _walk(head: bytes) -> Iterator[tuple[pickletools.OpcodeInfo, int]]:
    """Opcodes with the position behind each, for as long as they make sense."""
    stack: list[bool] = []  # True is a mark
    position = 0
    while (opcode := _OPCODES.get(head[position : position + 1])) is not None:
        end = _end_of(opcode, head, position + 1)
        if end is None or not _apply(opcode, stack):
            return
        yield opcode, end
        if opcode.name == "STOP":
            return
        position = end


def _end_of(opcode: pickletools.OpcodeInfo, head: bytes, position: int) -> int | None:
    """Where the opcode's argument ends (maybe behind the head); None if it can't be one."""
    if opcode.arg is None:
        return position
    size = opcode.arg.n
    if size >= 0:
        return position + size
    if _is_line(opcode):
        line = _LINES.get(opcode.name, _NUMBER).match(head, position)
        return line.end() if line else None
    start = position + _LENGTH_BYTES[size]
    return start + int.from_bytes(head[position:start], "little")


def _is_line(opcode: pickletools.OpcodeInfo) -> bool:
    return opcode.arg is not None and opcode.arg.n == pickletools.UP_TO_NEWLINE


def _apply(opcode: pickletools.OpcodeInfo, stack: list[bool]) -> bool:
    """Do to the stack what the opcode does; False where it lacks what the opcode takes."""
    taken = opcode.stack_before
    if pickletools.markobject in taken:  # all down to the last mark, and what lies below it
        if True not in stack:
            return False
        while not stack.pop():
            continue
        taken = taken[: taken.index(pickletools.markobject)]
    if len(stack) < len(taken):
        return False
    del stack[len(stack) - len(taken) :]
    stack.extend(item is pickletools.markobject for item in opcode.stack_after)
    return True
