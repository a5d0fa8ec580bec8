"""An ONNX model without its weights, which an engine then takes from memory where they lie.

Engines take a model as one object of bytes, which Python can't wipe and they copy once more. So
the large tensors that lie within a model are left out of what is handed over, and described as
external data: at their place in the very file that they came from.
"""

from __future__ import annotations

import posixpath

from modelvault.errors import IntegrityError
from modelvault.weights.cursor import Read
from modelvault.weights.protobuf import BYTES, VARINT, Fields, field

LARGE = 4096  # bytes; smaller ones stay, also because engines want to see shapes and the like
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION, _DATA_TYPE = 9, 13, 14, 2
_STRING = 8

# The parts that are written anew, since a large tensor may be in them: the graph's initializers,
# and constants among its nodes.
_PARTS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph"},
    "Graph": {1: "Node", 5: "Tensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor"},
}


def lighten(read: Read, size: int, path: str) -> bytes:
    """The model at `path` with its graph's large tensors described as external data in a file of
    the model's own name, `location(path)`. What isn't such a tensor is as it was.

    `read(begin, end)` gives bytes of the model. Raises IntegrityError (`bad_onnx`); a model that
    `onnx.externals` refuses mustn't get here.
    """

    def lie(what: str) -> IntegrityError:
        return IntegrityError(
            "bad_onnx", f"{path}: not a sound ONNX model: {what}", "export the model anew"
        )

    return _Rewriting(Fields(read, size, lie), read, location(path)).part("Model", size)


def location(path: str) -> str:
    """What the file at `path` is called as external data of the model in it."""
    return posixpath.basename(path)


class _Rewriting:
    """One way through a model, each part copied or made anew."""

    def __init__(self, fields: Fields, read: Read, name: str) -> None:
        self._fields = fields
        self._read = read
        self._name = name

    def part(self, kind: str, length: int) -> bytes:
        """The next `length` bytes, a part of this kind, rewritten."""
        if kind == "Tensor":
            return self._tensor(length)
        out = []
        begin = self._fields.position
        for number, wire, value in self._fields.each(begin + length):
            inner = _PARTS[kind].get(number)
            if inner is not None and wire == BYTES:
                out.append(field(number, self.part(inner, value)))
            else:
                self._fields.skip(value if wire == BYTES else 0)
                out.append(self._read(begin, self._fields.position))
            begin = self._fields.position
        return b"".join(out)

    def _tensor(self, length: int) -> bytes:
        """The tensor, its raw data replaced by their place if they are large."""
        fields = self._fields
        start = begin = fields.position
        kept, places = [], []
        fixed = False
        for number, wire, value in fields.each(start + length):
            if number == _RAW_DATA and wire == BYTES:
                places.append((fields.position, value))
                fields.skip(value)
            else:
                # What is elsewhere stays there, and texts can't be external.
                fixed |= number in (_EXTERNAL_DATA, _DATA_LOCATION)
                fixed |= (number, wire, value) == (_DATA_TYPE, VARINT, _STRING)
                fields.skip(value if wire == BYTES else 0)
                kept.append((begin, fields.position))
            begin = fields.position
        if fixed or len(places) != 1 or places[0][1] < LARGE:
            return self._read(start, start + length)
        return b"".join([*(self._read(*place) for place in kept), self._elsewhere(*places[0])])

    def _elsewhere(self, offset: int, count: int) -> bytes:
        told = (("location", self._name), ("offset", str(offset)), ("length", str(count)))
        entries = (field(1, key.encode()) + field(2, text.encode()) for key, text in told)
        data = b"".join(field(_EXTERNAL_DATA, entry) for entry in entries)
        return data + field(_DATA_LOCATION, 1)
