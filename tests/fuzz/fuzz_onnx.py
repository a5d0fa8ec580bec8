"""Any bytes: an ONNX model is refused as such, or names files inside its own folder alone.

So does what is handed to an engine in its stead, which names the model's own file besides.
"""

from __future__ import annotations

from fuzz.harness import check_message, main
from modelvault.errors import IntegrityError
from modelvault.weights.onnx import External, externals
from modelvault.weights.onnx_light import LARGE, lighten
from modelvault.weights.protobuf import field
from support.onnx_files import external, graph_of, inline, model_of

_NODE = field(1, field(5, field(5, external("c.bin")) + field(6, graph_of(external("d.bin")))))

SEEDS: list[bytes] = [
    model_of(graph_of(inline(b"weights"))),
    model_of(graph_of(external("w.bin", offset=16, length=4), external("sub/w"))),
    model_of(graph_of(external("../w.bin"))),
    model_of(_NODE) + field(25, field(7, field(5, field(10, external("e"))))),
    model_of(field(15, field(1, external("s")) + field(2, inline(b"\0")))),
    model_of(graph_of(inline(bytes(LARGE))) + field(1, field(5, field(5, inline(bytes(LARGE)))))),
    b"",
]


def one_input(data: bytes) -> None:
    try:
        found = read(data)
        light = read(lighten(lambda begin, end: data[begin:end], len(data), "sub/model.onnx"))
    except IntegrityError as refused:
        if refused.code != "bad_onnx":
            raise
        check_message(refused)
        return
    for each in found:
        assert each.path == f"sub/{each.location}"
        assert not {"", ".", ".."} & set(each.path.split("/"))
        assert each.needed >= each.largest >= 0
    assert {each.path for each in light} - {each.path for each in found} <= {"sub/model.onnx"}


def read(data: bytes) -> tuple[External, ...]:
    return externals(lambda begin, end: data[begin:end], len(data), "sub/model.onnx")


if __name__ == "__main__":
    main(one_input, SEEDS)
