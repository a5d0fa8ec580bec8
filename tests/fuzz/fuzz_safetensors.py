"""Any bytes: a safetensors header is refused as such, or covers its file without a gap."""

from __future__ import annotations

from fuzz.harness import check_message, main
from modelvault.errors import IntegrityError
from modelvault.weights.index import parse as parse_index
from modelvault.weights.safetensors import _plain_rows, _strict_rows, header_size, parse
from modelvault.weights.sniff import sniff


def _file(header: bytes, body: int = 0) -> bytes:
    return len(header).to_bytes(8, "little") + header + bytes(body)


SEEDS: list[bytes] = [
    _file(b"{}"),
    _file(b'{"__metadata__":{"format":"pt"}}  '),
    _file(b'{"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}', 8),
    _file(
        b'{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},'
        b'"b":{"dtype":"BF16","shape":[],"data_offsets":[3,5]},'
        b'"c":{"dtype":"F4","shape":[0],"data_offsets":[5,5]}}',
        5,
    ),
    _file(b'{"weight_map":{"a":"m-1.safetensors"}}'),
    b"\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94.",
    b"cos\nsystem\n(S'true'\ntR.",
]


def check_short_way(text: bytes) -> None:
    """What it takes, the long one takes, too, and for the same."""
    short = _plain_rows(text)
    if short is not None:
        try:
            long = _strict_rows(text)
        except IntegrityError as refused:
            raise AssertionError("the short way takes what the long one refuses") from refused
        assert short == long


def one_input(data: bytes) -> None:
    assert sniff("model.safetensors", data[:4096])
    try:
        start = header_size(data[:8], len(data))
        check_short_way(data[8:start])
        position = start
        for tensor in parse(data[:start], len(data)):
            assert tensor.begin == position
            assert tensor.end >= tensor.begin
            position = tensor.end
        assert position == len(data)
    except IntegrityError as refused:
        if refused.code != "bad_safetensors":
            raise
        check_message(refused)
    try:
        for shard in parse_index(data[8:], "m.safetensors.index.json").values():
            assert not shard.startswith(("/", "../"))
    except IntegrityError as refused:
        if refused.code != "bad_index":
            raise
        check_message(refused)


if __name__ == "__main__":
    main(one_input, SEEDS)
