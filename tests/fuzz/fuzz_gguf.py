"""Any bytes: a GGUF header is refused as such, or its tensors lie in the file, side by side."""

from __future__ import annotations

import struct

from fuzz.harness import check_message, main
from modelvault.errors import IntegrityError, InvalidRequest
from modelvault.weights import gguf
from modelvault.weights.sniff import sniff
from support.gguf_files import file_of, key, tensor, text

SEEDS: list[bytes] = [
    file_of(),
    file_of([key("general.architecture", 8, text(b"llama"))], version=2),
    file_of(
        [
            key("general.alignment", 4, struct.pack("<I", 64)),
            key("a", 9, struct.pack("<IQ", 8, 2) + text(b"x") + text(b"yz")),
            key("b", 9, struct.pack("<IQ", 6, 2) + bytes(8)),
        ],
        [tensor("w", (32, 2), 8, 0), tensor("v", (3, 1, 1, 1), 0, 128)],
        128 + 12,
        alignment=64,
    ),
    file_of(tensors=[tensor("w", (2,), 30, 0)], body=4),
    file_of(version=3 << 24),
]


def one_input(data: bytes) -> None:
    assert sniff("model.gguf", data[:4096])
    try:
        header = gguf.parse(lambda begin, end: data[begin:end], len(data))
    except (IntegrityError, InvalidRequest) as refused:
        if refused.code not in {"bad_gguf", "unsupported_gguf"}:
            raise
        check_message(refused)
        return
    assert isinstance(header.architecture, str)
    assert isinstance(header.quantisation, str)
    position = 0
    for each in header.tensors:
        assert position <= each.begin <= each.end <= len(data)
        shown = gguf.in_bytes(each)
        assert (shown.begin, shown.end) == (each.begin, each.end)
        position = each.end


if __name__ == "__main__":
    main(one_input, SEEDS)
