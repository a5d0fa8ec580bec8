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
_GRAPH, _INITIALIZER = 7, 5
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14
_STRING = 8
_DATA_TYPE = 2


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

    fields = Fields(read, size, lie)
    out = []
    begin = 0
    for number, wire, value in fields.each(size):
        if number == _GRAPH and wire == BYTES:
            out.append(field(_GRAPH, _graph(fields, read, value, location(path))))
        else:
            fields.skip(value if wire == BYTES else 0)
            out.append(read(begin, fields.position))
        begin = fields.position
    return b"".join(out)


def location(path: str) -> str:
    """What the file at `path` is called as external data of the model in it."""
    return posixpath.basename(path)


def _graph(fields: Fields, read: Read, length: int, name: str) -> bytes:
    out = []
    begin = fields.position
    for number, wire, value in fields.each(begin + length):
        if number == _INITIALIZER and wire == BYTES:
            out.append(field(_INITIALIZER, _tensor(fields, read, value, name)))
        else:
            fields.skip(value if wire == BYTES else 0)
            out.append(read(begin, fields.position))
        begin = fields.position
    return b"".join(out)


def _tensor(fields: Fields, read: Read, length: int, name: str) -> bytes:
    """The tensor, its raw data replaced by their place if they are large."""
    start = begin = fields.position
    end = start + length
    kept = []
    places = []
    elsewhere = False
    for number, wire, value in fields.each(end):
        if number == _RAW_DATA and wire == BYTES:
            places.append((fields.position, value))
            fields.skip(value)
        else:
            elsewhere |= number in (_EXTERNAL_DATA, _DATA_LOCATION)
            # Texts can't be external; no exporter puts them into raw data either.
            elsewhere |= (number, wire, value) == (_DATA_TYPE, VARINT, _STRING)
            fields.skip(value if wire == BYTES else 0)
            kept.append((begin, fields.position))
        begin = fields.position
    if elsewhere or len(places) != 1 or places[0][1] < LARGE:
        return read(start, end)
    offset, count = places[0]
    told = (("location", name), ("offset", str(offset)), ("length", str(count)))
    entries = (field(1, key.encode()) + field(2, text.encode()) for key, text in told)
    return b"".join(
        [
            *(read(*place) for place in kept),
            *(field(_EXTERNAL_DATA, entry) for entry in entries),
            field(_DATA_LOCATION, 1),
        ]
    )
