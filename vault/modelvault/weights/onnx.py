"""Where an ONNX model says that its weights lie, if not within it: `external_data`.

The model is a protocol buffer, of which nothing is built here: the fields that can lead to a
tensor are walked over, all others skipped, and only the locations are looked at. Engines open
what these name, relative to the model's folder, so each must be a plain path within it. Stricter
than a reader of protocol buffers: groups are refused, and parts that may stand once and stand
twice (a reader would merge them), so that what is checked here is what an engine sees.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

import msgspec

from modelvault.errors import IntegrityError
from modelvault.weights.cursor import Cursor, Read
from modelvault.weights.safetensors import short

SUFFIX = ".onnx"
MAX_BYTES = 2**31 - 1  # what a protocol buffer can hold
MAX_DEPTH = 64  # graphs within graphs
MAX_FIELDS = 5_000_000
_MAX_TEXT = 4096
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Of each message: which of its fields are messages that may hold a tensor, by number; those in
# _SINGLE stand at most once.
_FIELDS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
    "Entry": {},
}  # fmt: skip
_SINGLE = {
    "Model": {7}, "Training": {1, 2}, "Attribute": {5, 6, 22}, "SparseTensor": {1, 2},
    "Entry": {1, 2},
}  # fmt: skip
_DATA_LOCATION, _EXTERNAL = 14, 1


class External(msgspec.Struct, frozen=True):
    """A file that a model's tensors lie in: as the model names it, where that is among the
    version's paths, and how many bytes of it are needed at least."""

    location: str
    path: str
    needed: int


def externals(read: Read, size: int, path: str) -> tuple[External, ...]:
    """The files that the model at `path`, `size` bytes long, takes its tensors from, by location.

    `read(begin, end)` gives bytes of it; tensors that lie within it are not read. Raises
    IntegrityError (`bad_onnx`) for what can't be a model, and for a location that isn't a plain
    relative path inside the model's folder.
    """
    walk = _Walk(read, size, path)
    walk.message("Model", size, 0)
    folder = posixpath.dirname(path)
    return tuple(
        External(location, posixpath.join(folder, location), needed)
        for location, needed in sorted(walk.found.items())
    )


class _Walk:
    """One way through a model. `found` gathers {location: bytes needed}."""

    def __init__(self, read: Read, size: int, path: str) -> None:
        self.found: dict[str, int] = {}
        self._path = path
        self._cursor = Cursor(read, size, self._lie, MAX_BYTES)
        self._fields = 0

    def message(self, kind: str, end: int, depth: int) -> None:
        """Go over a message that reaches to `end`."""
        if depth > MAX_DEPTH:
            raise self._lie(f"nested deeper than {MAX_DEPTH}")
        if kind == "Tensor":
            self._tensor(end)
            return
        inner, seen = _FIELDS[kind], set()
        for field, wire, value in self._each(end):
            if field not in inner or wire != _BYTES:
                self._cursor.skip(value if wire == _BYTES else 0)
                continue
            if field in seen and field in _SINGLE.get(kind, ()):
                raise self._lie(f"a part that stands once stands twice (field {field} of {kind})")
            seen.add(field)
            self.message(inner[field], self._cursor.position + value, depth + 1)

    def _tensor(self, end: int) -> None:
        told: dict[bytes, bytes] = {}
        external = False
        for field, wire, value in self._each(end):
            if field == 13 and wire == _BYTES:
                key, text = self._entry(self._cursor.position + value)
                if key in told:
                    raise self._lie(f"a tensor's external data has two entries {key!r}"[:300])
                told[key] = text
                continue
            if field == _DATA_LOCATION and wire == _VARINT:
                external = value == _EXTERNAL
            self._cursor.skip(value if wire == _BYTES else 0)
        if external or told:
            self._note(told)

    def _entry(self, end: int) -> tuple[bytes, bytes]:
        parts = {1: b"", 2: b""}
        seen = set()
        for field, wire, value in self._each(end):
            if field not in parts or wire != _BYTES:
                self._cursor.skip(value if wire == _BYTES else 0)
                continue
            if field in seen or value > _MAX_TEXT:
                raise self._lie("an entry of external data that no model has")
            seen.add(field)
            parts[field] = self._cursor.take(value)
        return parts[1], parts[2]

    def _note(self, told: dict[bytes, bytes]) -> None:
        if b"location" not in told:
            raise self._lie("external data without a location")
        location = self._location(told[b"location"])
        needed = sum(self._count(told.get(key, b"0")) for key in (b"offset", b"length"))
        self.found[location] = max(needed, self.found.get(location, 0))

    def _location(self, raw: bytes) -> str:
        try:
            location = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self._lie("a location of external data isn't UTF-8") from None
        shown = short(location)
        if not location.isprintable() or "\\" in location or ":" in location:
            raise self._lie(f"external data at {shown}, which is no plain path")
        if location.startswith("/") or location.split("/", 1)[0] == "..":
            raise self._lie(f"external data at {shown}, outside of the model's folder")
        plain = posixpath.normpath(location)
        # onnxruntime takes a name that begins with an asterisk for an address in memory.
        if location.startswith("*") or plain != location or plain == ".":
            raise self._lie(f"external data at {shown}, which is no plain path")
        return location

    def _count(self, raw: bytes) -> int:
        if not raw.isdigit() or len(raw) > 19:
            raise self._lie(f"external data at {short(raw.decode('latin-1'))} bytes")
        return int(raw)

    def _each(self, end: int) -> Iterator[tuple[int, int, int]]:
        """(field, wire type, value) up to `end`. Of bytes the value is their length: who gets
        it goes on behind them."""
        cursor = self._cursor
        while cursor.position < end:
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise self._lie(f"more than {MAX_FIELDS:,} fields")
            tag = self._varint()
            field, wire = tag >> 3, tag & 7
            if not field or tag >> 32:
                raise self._lie(f"there is no field {field}")
            yield field, wire, self._value(wire, end)
            # What a reader took as the inside of a message must end where it says.
        if cursor.position != end:
            raise self._lie("a part that is longer than what it stands in")

    def _value(self, wire: int, end: int) -> int:
        if wire == _VARINT:
            return self._varint()
        if wire == _BYTES:
            length = self._varint()
            if length > end - self._cursor.position:
                raise self._lie("a part that is longer than what it stands in")
            return length
        if wire in (_FIXED64, _FIXED32):
            self._cursor.skip(8 if wire == _FIXED64 else 4)
            return 0
        raise self._lie(f"there is no wire type {wire}")

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._cursor.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    break
                return value
        raise self._lie("a number of more than 64 bits")

    def _lie(self, what: str) -> IntegrityError:
        return IntegrityError(
            "bad_onnx",
            f"{self._path}: not a sound ONNX model: {what}",
            "export the model anew, its external data beside it, and push that folder",
        )
