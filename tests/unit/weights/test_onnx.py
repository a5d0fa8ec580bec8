from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelvault.errors import IntegrityError
from modelvault.weights import protobuf
from modelvault.weights.onnx import External, externals
from modelvault.weights.protobuf import field, varint
from support.onnx_files import entry, external, graph_of, inline, model_of


def read(data: bytes, path: str = "m.onnx") -> tuple[External, ...]:
    return externals(lambda begin, end: data[begin:end], len(data), path)


def at(*fields: int, tensor: bytes) -> bytes:
    """A model with a tensor in the part that these fields lead to."""
    for number in reversed(fields):
        tensor = field(number, tensor)
    return field(1, 8) + tensor


HOLDERS = {
    "initializer": (7, 5),
    "sparse initializer's values": (7, 15, 1),
    "sparse initializer's indices": (7, 15, 2),
    "attribute": (7, 1, 5, 5),
    "attribute's list": (7, 1, 5, 10),
    "sparse attribute": (7, 1, 5, 22, 1),
    "sparse attribute's list": (7, 1, 5, 23, 2),
    "graph in an attribute": (7, 1, 5, 6, 5),
    "graphs in an attribute": (7, 1, 5, 11, 1, 5, 6, 5),
    "function": (25, 7, 5, 5),
    "default of a function's attribute": (25, 11, 5),
    "training's first graph": (20, 1, 5),
    "training's second graph": (20, 2, 1, 5, 5),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_tensor_is_found_wherever_it_hides(holder: str) -> None:
    data = at(*HOLDERS[holder], tensor=external("w.bin", offset=64, length=16))
    assert read(data) == (External("w.bin", "w.bin", 80, 16),)
    assert read(data, "sub/m.onnx") == (External("w.bin", "sub/w.bin", 80, 16),)
    with pytest.raises(IntegrityError, match="outside of the model's folder"):
        read(at(*HOLDERS[holder], tensor=external("../w.bin")))


@pytest.mark.parametrize("name", [b"ep_cache_context", b"other"])
@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (b"engine.ctx", True), (b"\x7fELF\x00" + bytes(range(256)), True), (b"x" * 5000, True),
        (b"", True), (b"../engine.ctx", False), (b"/etc/passwd", False), (b"a\\b", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("turned", [False, True])
def test_compiled_parts_are_named_within_the_folder(
    name: bytes, text: bytes, plain: bool, turned: bool
) -> None:
    parts = [field(1, 7), field(1, name), field(4, text), field(4, 7), field(20, 3), field(1, 7)]
    data = at(7, 1, 5, tensor=b"".join(reversed(parts) if turned else parts))
    if plain or name == b"other":
        assert read(data) == ()
    else:
        with pytest.raises(IntegrityError, match="external data at"):
            read(data)


def test_each_file_is_named_once_with_the_most_that_is_asked_of_it() -> None:
    data = model_of(
        graph_of(
            external("b", offset=0, length=8), inline(b"x" * 100), external("a/c"),
            external("b", offset=8, length=8), external("b", offset=4),
        )
    )  # fmt: skip
    assert read(data) == (External("a/c", "a/c", 0, 0), External("b", "b", 16, 8))
    assert read(model_of(graph_of(inline(b"x")))) == ()
    assert read(b"") == ()


def test_entries_count_also_where_the_tensor_denies_them() -> None:
    denied = external("../w.bin") + field(14, 0)
    with pytest.raises(IntegrityError, match="outside"):
        read(model_of(graph_of(denied)))


LOCATIONS = {
    "../w": "outside", "..": "outside", "/etc/passwd": "outside", "//w": "outside",
    "a/../../w": "no plain path", "a/../w": "no plain path", "./w": "no plain path",
    "a//w": "no plain path", "a/": "no plain path", ".": "no plain path", "": "no plain path",
    "a\\w": "no plain path", "C:w": "no plain path", "file:///w": "no plain path",
    "w\0": "no plain path", "w\n": "no plain path", "\u202ew": "no plain path",
    "*/_ORT_MEM_ADDR_/*": "no plain path",
}  # fmt: skip


@pytest.mark.parametrize("location", LOCATIONS)
def test_locations_that_leave_the_folder_are_refused(location: str) -> None:
    with pytest.raises(IntegrityError, match=LOCATIONS[location]) as caught:
        read(model_of(graph_of(external(location, offset=0, length=4))))
    assert caught.value.code == "bad_onnx"
    assert caught.value.message.startswith("m.onnx: ")
    assert caught.value.message.isprintable()


deep = external("w")
for _ in range(30):
    deep = field(1, field(5, field(6, deep)))  # a node's attribute's graph

LIES = {
    "no location": (model_of(graph_of(field(14, 1))), "without a location"),
    "only an offset": (model_of(graph_of(entry("offset", "4"))), "without a location"),
    "location twice": (model_of(graph_of(external("a") + entry("location", "b"))), "two entries"),
    "length twice": (model_of(graph_of(external("a", length=1) + entry("length", "2"))), "two ent"),
    "key twice": (
        model_of(graph_of(field(13, field(1, b"a") + field(1, b"location") + field(2, b"w")))),
        "no model has",
    ),
    "value twice": (
        model_of(graph_of(field(13, field(1, b"location") + field(2, b"w") + field(2, b"../w")))),
        "no model has",
    ),
    "location of 5 KB": (model_of(graph_of(external("w" * 5000))), "no model has"),
    "location that isn't UTF-8": (model_of(graph_of(external(b"\xff"))), "isn't UTF-8"),
    "negative offset": (model_of(graph_of(external("w", offset=-4))), "'-4' bytes"),
    "offset in hexadecimal": (model_of(graph_of(external("w", offset="0x4"))), "'0x4' bytes"),
    "offset of 20 digits": (model_of(graph_of(external("w", offset=10**20))), "bytes"),
    "graph twice": (model_of(graph_of()) + field(7, b""), "twice"),
    "attribute's tensor twice": (
        at(7, 1, 5, tensor=field(5, external("w")) + field(5, entry("offset", "4"))), "twice"
    ),
    "longer than the file": (varint(7 << 3 | 2) + varint(100), "longer"),
    "longer than its holder": (
        field(7, varint(5 << 3 | 2) + varint(100)) + bytes(200), "longer"
    ),
    "number over its holder's end": (field(7, b"\x08") + b"\xff\x01", "longer"),
    "fixed over its holder's end": (field(7, b"\x09") + bytes(8), "longer"),
    "number of 80 bits": (b"\x08" + b"\xff" * 10 + b"\1", "64 bits"),
    "number of 70 bits": (b"\x08" + b"\xff" * 9 + b"\x7f", "64 bits"),
    "field 0": (b"\x02\0", "no field 0"),
    "field of 40 bits": (varint(1 << 40) + b"\0", "no field"),
    "group": (b"\x0b\x0c", "wire type 3"),
    "cut in a number": (b"\x08\xff", "1 bytes at byte"),
    "deep": (model_of(deep), "deeper than 64"),
    "text": (b"version https://git-lfs.github.com/spec/v1\n", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", LIES)
def test_what_cant_be_a_model_is_refused(case: str) -> None:
    data, why = LIES[case]
    with pytest.raises(IntegrityError) as caught:
        read(data)
    assert caught.value.code == "bad_onnx"
    assert why in caught.value.message
    assert caught.value.message.isprintable()


def test_other_wire_types_and_unknown_fields_are_passed_over() -> None:
    odd = (
        field(99, b"x") + field(99, 7) + varint(99 << 3 | 1) + bytes(8)
        + varint(99 << 3 | 5) + bytes(4) + field(7, 1)
    )  # fmt: skip
    assert read(odd + field(7, odd + graph_of(odd + external("w")))) == (External("w", "w", 0, 0),)


def test_weights_within_a_model_are_not_read() -> None:
    data = model_of(graph_of(inline(bytes(4 << 20)), external("w")))
    seen = []

    def reading(begin: int, end: int) -> bytes:
        seen.append(end - begin)
        return data[begin:end]

    assert externals(reading, len(data), "m.onnx")
    assert sum(seen) <= 192 << 10


def test_the_walk_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf, "MAX_FIELDS", 10)
    with pytest.raises(IntegrityError, match="more than 10 fields"):
        read(field(1, 8) * 11)
    monkeypatch.setattr(protobuf, "MAX_BYTES", 100)
    with pytest.raises(IntegrityError, match="more than 100 bytes"):
        read(field(99, bytes(101)) + field(1, 8))


NAMES = st.from_regex(r"[a-z]{1,5}(/[a-z]{1,5})?", fullmatch=True)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(HOLDERS)), NAMES), max_size=3), st.data())
def test_an_altered_model_is_refused_or_names_plain_paths(
    tensors: list[tuple[str, str]], data: st.DataObject
) -> None:
    sound = bytearray(field(1, 8))
    for holder, name in tensors:
        single = HOLDERS[holder][0] == 7 and b"\x3a" in sound
        if not single:
            sound += at(*HOLDERS[holder], tensor=external(name, offset=1, length=2))[2:]
    for _ in range(data.draw(st.integers(0, 3))):
        sound[data.draw(st.integers(0, len(sound) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read(bytes(sound))
    except IntegrityError as refused:
        if refused.code != "bad_onnx":
            raise
        return
    for each in found:
        assert ".." not in each.path.split("/")
        assert not each.path.startswith("/")
