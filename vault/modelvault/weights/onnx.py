"""Where an ONNX model says that its weights lie, if not within it: `external_data`.

The model is a protocol buffer, of which nothing is built here: the fields that can lead to a
tensor are walked over, all others skipped, and only the locations are looked at. Engines open
what these name, relative to the model's folder, so each must be a plain path within it. Parts that
may stand once and stand twice are refused (a reader would merge them), so that what is checked
here is what an engine sees.
"""

from __future__ import annotations

import posixpath
from contextlib import suppress

import msgspec

from modelvault.errors import IntegrityError
from modelvault.weights.cursor import Read
from modelvault.weights.protobuf import BYTES, VARINT, Fields
from modelvault.weights.safetensors import short

SUFFIX = ".onnx"
MAX_DEPTH = 64  # graphs within graphs
_MAX_TEXT = 4096
_EXTERNAL = 1

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


# An attribute's name and its text. Where a part was compiled for some device, the text of this name
# is the part itself, or the name of its file.
_NAME, _TEXT = 1, 4
_COMPILED = b"ep_cache_context"


class External(msgspec.Struct, frozen=True):
    """A file that a model's tensors lie in: as the model names it, where that is among the
    version's paths, how many bytes of it are needed at least, and the largest tensor's bytes."""

    location: str
    path: str
    needed: int
    largest: int


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
        External(location, posixpath.join(folder, location), needed, largest)
        for location, (needed, largest) in sorted(walk.found.items())
    )


class _Walk:
    """One way through a model. `found` gathers {location: (bytes needed, of the largest)}."""

    def __init__(self, read: Read, size: int, path: str) -> None:
        self.found: dict[str, tuple[int, int]] = {}
        self._path = path
        self._fields = Fields(read, size, self._lie)

    def message(self, kind: str, end: int, depth: int) -> None:
        """Go over a message that reaches to `end`."""
        if depth > MAX_DEPTH:
            raise self._lie(f"nested deeper than {MAX_DEPTH}")
        if kind == "Tensor":
            self._tensor(end)
            return
        inner, seen = _FIELDS[kind], set()
        texts: dict[int, bytes] = {}
        for field, wire, value in self._fields.each(end):
            told = kind == "Attribute" and field in (_NAME, _TEXT) and wire == BYTES
            if told and value <= _MAX_TEXT:
                texts[field] = self._fields.take(value)
                continue
            if field not in inner or wire != BYTES:
                self._fields.skip(value if wire == BYTES else 0)
                continue
            if field in seen and field in _SINGLE.get(kind, ()):
                raise self._lie(f"a part that stands once stands twice (field {field} of {kind})")
            seen.add(field)
            self.message(inner[field], self._fields.position + value, depth + 1)
        if texts.get(_NAME) == _COMPILED:
            self._compiled(texts.get(_TEXT, b""))

    def _compiled(self, text: bytes) -> None:
        """Providers open what it names as they open external data."""
        with suppress(UnicodeDecodeError):  # the part itself, then
            if text and text.decode().isprintable():
                self._location(text)

    def _tensor(self, end: int) -> None:
        told: dict[bytes, bytes] = {}
        external = False
        for field, wire, value in self._fields.each(end):
            if field == 13 and wire == BYTES:
                key, text = self._entry(self._fields.position + value)
                if key in told:
                    raise self._lie(f"a tensor's external data has two entries {key!r}"[:300])
                told[key] = text
                continue
            if field == 14 and wire == VARINT:
                external = value == _EXTERNAL
            self._fields.skip(value if wire == BYTES else 0)
        if external or told:
            self._note(told)

    def _entry(self, end: int) -> tuple[bytes, bytes]:
        parts = {1: b"", 2: b""}
        seen = set()
        for field, wire, value in self._fields.each(end):
            if field not in parts or wire != BYTES:
                self._fields.skip(value if wire == BYTES else 0)
                continue
            if field in seen or value > _MAX_TEXT:
                raise self._lie("an entry of external data that no model has")
            seen.add(field)
            parts[field] = self._fields.take(value)
        return parts[1], parts[2]

    def _note(self, told: dict[bytes, bytes]) -> None:
        if b"location" not in told:
            raise self._lie("external data without a location")
        location = self._location(told[b"location"])
        offset, length = (self._count(told.get(key, b"0")) for key in (b"offset", b"length"))
        needed, largest = self.found.get(location, (0, 0))
        self.found[location] = max(offset + length, needed), max(length, largest)

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

    def _lie(self, what: str) -> IntegrityError:
        return IntegrityError(
            "bad_onnx",
            f"{self._path}: not a sound ONNX model: {what}",
            "export the model anew, its external data beside it, and push that folder",
        )
