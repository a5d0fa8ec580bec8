"""Parts of tensors, compared with numpy's, and what was read for them."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from modelvault.crypto.floe import Geometry
from modelvault.errors import AccessDenied, Conflict, IntegrityError, InvalidRequest, NotFound
from modelvault.loader import slices
from modelvault.loader.slices import select
from modelvault.loader.tensors import Framework
from support.engines import need
from support.loading import SEGMENT, PlainReader, Sealed, Version

MODEL = "m.safetensors"
PAYLOAD = Geometry(SEGMENT).payload
RNG = np.random.default_rng(7)
MATRIX = RNG.integers(0, 1 << 30, (40, 600), "i4")  # a row is 2.4 segments


def version(segment_length: int = SEGMENT, **arrays: np.ndarray) -> Version:
    return Version({MODEL: save(arrays)}, segment_length=segment_length)


def segments_read(reader: PlainReader) -> list[int]:
    """The segments that were decrypted, one for each time."""
    return [
        number
        for offset, length in reader.reads
        for number in range(offset // PAYLOAD, (offset + length - 1) // PAYLOAD + 1)
    ]


@st.composite
def shape_and_index(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[object, ...]]:
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=0, max_size=4)))
    index: list[object] = []
    for size in shape[: draw(st.integers(0, len(shape)))]:
        if draw(st.booleans()):
            index.append(draw(st.integers(-size, size - 1)))
        else:
            edge = st.none() | st.integers(-size - 2, size + 2)
            index.append(slice(draw(edge), draw(edge), draw(st.sampled_from([None, 1, 2, 3]))))
    if draw(st.booleans()):
        at = draw(st.integers(0, len(index)))
        index = [*index[:at], ..., *index[at:]]
    return shape, tuple(index)


@settings(max_examples=120, deadline=None)
@given(shape_and_index(), st.sampled_from([33, 40, 100]), st.sampled_from([1, 64, 1 << 25]))
def test_agrees_with_numpy(
    asked: tuple[tuple[int, ...], tuple[object, ...]], segment_length: int, block: int
) -> None:
    shape, index = asked
    array = np.arange(1, int(np.prod(shape)) + 1, dtype="u2").reshape(shape)
    before = np.arange(3, dtype="u1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "_BLOCK", block)
        with version(segment_length, a=before, m=array).model() as model:
            part = model.get_slice("m", framework="numpy")
            try:
                wanted = array[index]
            except IndexError:
                with pytest.raises(IndexError):
                    part[index]
                return
            found = part[index]
            assert found.shape == wanted.shape
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)
            del found


@pytest.mark.parametrize("framework", ["torch", "numpy"])
@pytest.mark.parametrize("step", [3, 7, 10**18, 2**63 - 1, 10**20])
def test_steps_beyond_the_end(framework: Framework, step: int) -> None:
    if framework == "torch":
        need("torch")
    cube = np.arange(60, dtype="i4").reshape(3, 4, 5)
    with version(m=cube).model() as model:
        part = model.get_slice("m", framework=framework)
        for index in (np.s_[::step], np.s_[1, ::step, ::step], np.s_[..., 9::step], np.s_[:0:step]):
            np.testing.assert_array_equal(np.asarray(part[index]), cube[index])


def test_what_safetensors_tells_of_it() -> None:
    with version(m=MATRIX).model() as model:
        part = model.get_slice("m", framework="np")
        assert part.get_shape() == [40, 600]
        assert part.get_dtype() == "I32"
        assert [row[0] for row in part] == MATRIX[:, 0].tolist()  # ends by IndexError


@pytest.mark.parametrize(
    ("index", "wanted"),
    [
        # Rows are one run: their own segments, each once.
        (np.s_[10:20], np.s_[10:20]),
        (np.s_[-1], np.s_[-1]),
        (np.s_[3, 100:140], np.s_[3, 100:140]),
        (np.s_[...], np.s_[...]),
        # Columns skip the segments of a row that hold none of them.
        (np.s_[:, 590:], np.s_[:, 590:]),
        (np.s_[:, 300:600], np.s_[:, 300:600]),
        (np.s_[5:9, :7], np.s_[5:9, :7]),
    ],
)
def test_only_the_segments_that_it_lies_in_are_decrypted_each_once(
    index: object, wanted: object
) -> None:
    # What lies before is longer than what is looked at for pickles, and stays in memory.
    loaded = version(a=np.arange(777), m=MATRIX, z=np.arange(5000, dtype="u1"))
    reader = loaded.readers[MODEL]
    with loaded.model() as model:
        part = model.get_slice("m", framework="numpy")
        info = model.tensor_infos()["m"]
        reader.reads.clear()
        found = part[index]
        np.testing.assert_array_equal(found, MATRIX[wanted])
        places = np.arange(MATRIX.size).reshape(MATRIX.shape)[wanted].reshape(-1) * 4 + info.begin
        assert sorted(segments_read(reader)) == sorted(
            set((places // PAYLOAD).tolist()) | set(((places + 3) // PAYLOAD).tolist())
        )
        del found


def test_blocks_share_the_segment_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "_BLOCK", 5000)
    loaded = version(m=MATRIX)
    reader = loaded.readers[MODEL]
    with loaded.model() as model:
        part = model.get_slice("m", framework="numpy")
        reader.reads.clear()
        found = part[:, :599]
        np.testing.assert_array_equal(found, MATRIX[:, :599])
        assert len(reader.reads) > 10
        read = segments_read(reader)
        assert len(read) == len(set(read))
        del found


def test_long_runs_of_a_stack_go_straight_to_their_place() -> None:
    stack = RNG.integers(0, 255, (6, 4, 3000), "u1")
    loaded = version(m=stack)
    reader = loaded.readers[MODEL]
    with loaded.model() as model:
        part = model.get_slice("m", framework="numpy")
        reader.reads.clear()
        np.testing.assert_array_equal(part[:, 1], stack[:, 1])
        assert len(reader.reads) == 6


def test_ranks_together_read_each_segment_once_and_the_shared_ones_twice() -> None:
    """Tensor-parallel ranks, each with a model of its own; bytes by the model's own count."""
    matrix = RNG.integers(0, 1 << 30, (64, 1024), "i4")
    data = save({"m": matrix})
    reads, parts = [], []
    for rank in range(4):
        sealed = Sealed({MODEL: data})
        with sealed.model() as model:
            part = model.get_slice("m", framework="numpy")
            before = sum(size for _, _, size in sealed.store.reads)
            parts.append(np.array(part[rank * 16 : (rank + 1) * 16]))
            reads.append(sum(size for _, _, size in sealed.store.reads) - before)
    np.testing.assert_array_equal(np.concatenate(parts), matrix)
    assert max(reads) <= len(data) // 4 + 2 * SEGMENT + 32 * (len(data) // PAYLOAD)


def test_what_is_in_memory_already_is_not_decrypted_again() -> None:
    loaded = version(m=MATRIX)
    with loaded.model() as model:
        whole = model.tensors()["m"]
        before = loaded.bytes_read
        found = model.get_slice("m", framework="numpy")[:, 5]
        np.testing.assert_array_equal(found, MATRIX[:, 5])
        assert not np.shares_memory(found, whole)
        assert loaded.bytes_read == before
        del whole, found


@pytest.mark.parametrize(
    ("index", "error"),
    [
        (40, IndexError),
        (-41, IndexError),
        ((0, 0, 0), IndexError),
        ((..., ...), InvalidRequest),
        (slice(None, None, -1), InvalidRequest),
        (slice(None, None, 0), InvalidRequest),
        (slice("a", None), InvalidRequest),
        ([0, 2], InvalidRequest),
        (None, InvalidRequest),
        (True, InvalidRequest),
        (1.5, InvalidRequest),
        (np.array([0, 2]), InvalidRequest),
        (np.True_, InvalidRequest),
        ("m", InvalidRequest),
    ],
)
def test_indices_that_are_refused(index: object, error: type[Exception]) -> None:
    with version(m=MATRIX).model() as model:
        with pytest.raises(error) as caught:
            model.get_slice("m", framework="numpy")[index]  # type: ignore[index]
        assert isinstance(caught.value, InvalidRequest)
        assert caught.value.code == "bad_slice"


def test_numbers_of_other_libraries() -> None:
    assert select((4, 5), np.int64(3)) == select((4, 5), 3)


def packed_file() -> bytes:
    header = b'{"x":{"dtype":"F4","shape":[3,8],"data_offsets":[0,12]}}'
    return len(header).to_bytes(8, "little") + header + bytes(range(12))


@pytest.mark.parametrize("index", [np.s_[:, 1:3], np.s_[:, 0:1], np.s_[0, 0], np.s_[:, ::2]])
def test_packed_types_are_cut_between_bytes_alone(index: tuple[object, ...]) -> None:
    need("torch")
    with Version({MODEL: packed_file()}).model() as model, pytest.raises(InvalidRequest) as caught:
        model.get_slice("x")[index]
    assert "F4 is packed" in caught.value.message


def test_other_ways_to_be_wrong() -> None:
    with version(m=MATRIX).model() as model:
        with pytest.raises(NotFound):
            model.get_slice("nope", framework="numpy")
        with pytest.raises(InvalidRequest, match="no framework 'jax'"):
            model.get_slice("m", framework="jax")  # type: ignore[arg-type]
    with Version({MODEL: packed_file()}).model() as model, pytest.raises(InvalidRequest) as caught:
        model.get_slice("x", framework="numpy")
    assert caught.value.code == "unsupported_dtype"


def test_parts_count_as_views_and_are_wiped_with_the_last_of_them() -> None:
    model = version(m=MATRIX).model()
    part = model.get_slice("m", framework="numpy")
    found = part[3:5]
    with pytest.raises(Conflict) as caught:
        model.close()
    assert caught.value.details["files"] == [MODEL]
    np.testing.assert_array_equal(found, MATRIX[3:5])
    assert model.drop() == (MODEL,)
    with pytest.raises(AccessDenied):
        part[0]
    del found
    gc.collect()
    assert model.drop() == ()
    model.close()


def test_a_part_that_was_tampered_with() -> None:
    sealed = Sealed({MODEL: save({"m": MATRIX})})
    sealed.flip(MODEL, 40_000)
    with sealed.model() as model:
        part = model.get_slice("m", framework="numpy")
        np.testing.assert_array_equal(part[0], MATRIX[0])
        with pytest.raises(IntegrityError, match=MODEL):
            part[:, 0:10]
        with pytest.raises(IntegrityError, match=MODEL):
            part[...]
