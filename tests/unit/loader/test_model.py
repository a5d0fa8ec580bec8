from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load, save

from modelvault.access import Obligations
from modelvault.crypto.floe import HEADER_BYTES, Geometry
from modelvault.errors import AccessDenied, IntegrityError, NotFound, Unavailable
from modelvault.loader.model import Model
from support.loading import SEGMENT, Sealed, Version

ARRAYS = {
    "w": np.arange(3000, dtype="f4").reshape(30, 100),
    "b": np.array([True, False]),
    "scalar": np.array(-3, "i8"),
    "none": np.zeros((0, 4), "f2"),
    "big": np.arange(40_000, dtype="u2"),
}
FILE = save(ARRAYS)
MODEL = "model.safetensors"


def sharded(**more: bytes) -> dict[str, bytes]:
    weights = {"a": "m-1.safetensors", "b": "m-2.safetensors"}
    return {
        "m-1.safetensors": save({"a": np.arange(5)}),
        "m-2.safetensors": save({"b": np.arange(7)}),
        "m.safetensors.index.json": json.dumps({"weight_map": weights}).encode(),
        **more,
    }


def test_tensors_are_read_only_views_of_decrypted_memory() -> None:
    with Sealed({MODEL: FILE}).model() as model:
        tensors = model.tensors()
        assert set(tensors) == set(ARRAYS)
        for name, wanted in ARRAYS.items():
            np.testing.assert_array_equal(tensors[name], wanted)
            assert tensors[name].dtype == wanted.dtype
            assert not tensors[name].flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            tensors["w"].flags.writeable = True
        again = model.tensors()
        assert np.shares_memory(again["w"], tensors["w"])  # nothing was copied
        whole = np.frombuffer(model.read_bytes(MODEL), "u1")
        assert np.shares_memory(whole, tensors["w"])
        del tensors, again, whole


def test_every_byte_is_decrypted_once_and_the_second_call_is_free() -> None:
    version = Version({MODEL: FILE, "x.json": b"{}"})
    model = version.model()
    model.tensor("w")
    model.open(MODEL).read(5000)
    model.tensors()
    assert version.readers[MODEL].bytes_read == len(FILE)
    model.tensors()
    model.read_bytes(MODEL)
    model.open(MODEL).read()
    model.tensor("big")
    assert version.readers[MODEL].bytes_read == len(FILE)
    assert version.readers["x.json"].bytes_read == 0
    model.close()


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
        st.sampled_from([np.bool_, "i1", "<u2", "<f2", "<f4", "<i8", "<c8"]).flatmap(
            lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_side=9, min_side=0))
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([64, 100, SEGMENT]),
    st.booleans(),
)
def test_agrees_with_safetensors(
    arrays: dict[str, np.ndarray], segment_length: int, one_by_one: bool
) -> None:
    data = save(arrays)
    with Version({MODEL: data}, segment_length=segment_length).model() as model:
        for name, wanted in load(data).items():
            found = model.tensor(name) if one_by_one else model.tensors()[name]
            assert found.dtype == wanted.dtype
            assert found.shape == arrays[name].shape
            assert found.tobytes() == wanted.tobytes()
            del found


@pytest.mark.parametrize(
    "dtype",
    ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"],
)
def test_small_floats_by_ml_dtypes(dtype: str) -> None:
    wanted = np.arange(1, 9).astype(getattr(ml_dtypes, dtype)).reshape(2, 4)
    with Version({MODEL: save({"x": wanted})}).model() as model:
        found = model.tensors()["x"]
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found.astype("f4"), wanted.astype("f4"))
        del found


def test_one_tensor_reads_its_own_segments_the_header_and_the_leaf_list() -> None:
    large = {f"t{n}": np.full(20_000, n, "f4") for n in range(10)}
    data = save(large)
    version = Sealed({MODEL: data}, segment_length=8192)
    with version.model() as model:
        info = model.tensor_infos()["t4"]
        assert (model.tensor("t4") == 4).all()
    geometry = Geometry(8192)
    first, last = info.begin // geometry.payload, (info.end - 1) // geometry.payload
    header = 1  # the segment with the safetensors header
    leaves = 32 * (geometry.segments(len(data)) + 1)
    read = sum(length for _, _, length in version.store.reads)
    assert read == HEADER_BYTES + leaves + (last - first + 1 + header) * 8192
    assert read < len(data) // 5


def test_a_tensor_is_found_over_the_index_without_other_shards() -> None:
    version = Version(sharded())
    with version.model() as model:
        assert model.tensor("b").shape == (7,)
        assert version.readers["m-1.safetensors"].bytes_read == 0


def test_shards_are_joined() -> None:
    for index in (True, False):
        files = sharded()
        if not index:
            del files["m.safetensors.index.json"]
        with Version(files).model() as model:
            assert {name: array.shape for name, array in model.tensors().items()} == {
                "a": (5,),
                "b": (7,),
            }
            assert model.tensor("a").shape == (5,)
            assert set(model.tensors("m-2.safetensors")) == {"b"}
            assert set(model.tensor_infos("m-1.safetensors", "m-1.safetensors")) == {"a"}


def index_of(weights: dict[str, str]) -> bytes:
    return json.dumps({"weight_map": weights}).encode()


@pytest.mark.parametrize(
    ("files", "code", "says"),
    [
        (
            sharded(**{"m.safetensors.index.json": index_of({"a": "gone.safetensors"})}),
            "missing_shard",
            "gone.safetensors",
        ),
        (
            sharded(**{"m.safetensors.index.json": index_of({"a": "m-2.safetensors"})}),
            "misplaced_tensor",
            "m-2.safetensors",
        ),
        (
            sharded(**{"m.safetensors.index.json": b'{"weight_map":{}}'}),
            "bad_index",
            "m.safetensors.index.json",
        ),
        (
            sharded(**{"m-3.safetensors": save({"a": np.zeros(1)})}),
            "duplicate_tensor",
            "m-3.safetensors",
        ),
        (
            {MODEL: FILE[:-1]},
            "bad_safetensors",
            MODEL,
        ),
        ({MODEL: b"abc"}, "bad_safetensors", MODEL),
        ({MODEL: b""}, "bad_safetensors", MODEL),
    ],
)
def test_lies_are_refused_before_a_view_is_made(
    files: dict[str, bytes], code: str, says: str
) -> None:
    model = Version(files).model()
    for use in (model.tensors, model.state_dict, model.tensor_infos):
        with pytest.raises(IntegrityError) as caught:
            use()
        assert caught.value.code == code
        assert says in caught.value.message
    model.close()


def test_a_name_in_two_files_can_be_had_by_naming_the_file() -> None:
    files = {"a.safetensors": save({"x": np.zeros(1)}), "b.safetensors": save({"x": np.ones(1)})}
    with Version(files).model() as model:
        with pytest.raises(IntegrityError) as caught:
            model.tensor("x")
        assert "tensors(path)" in caught.value.hint
        assert model.tensor("x", "b.safetensors")[0] == 1
        assert model.tensors("a.safetensors")["x"][0] == 0


def test_what_is_not_there() -> None:
    with Version({MODEL: FILE, "a.onnx": b"\x08\x01"}).model() as model:
        for use in (
            lambda: model.tensor("nope"),
            lambda: model.tensor("w", "nope.safetensors"),
            lambda: model.read_bytes("nope"),
            lambda: model.open("../etc/passwd"),
            lambda: model.path("nope"),
            lambda: model.tensors("nope"),
        ):
            with pytest.raises(NotFound) as caught:
                use()
            assert caught.value.hint
    with Version({"a.onnx": b"\x08\x01"}).model() as model, pytest.raises(NotFound) as caught:
        model.tensors()
    assert caught.value.code == "no_tensors"


def test_files_that_were_not_granted() -> None:
    with Version(sharded()).model("m-1.safetensors") as model:
        assert model.files == ("m-1.safetensors",)
        assert set(model.tensors()) == {"a"}
        for use in (model.read_bytes, model.open, model.path, model.tensors):
            with pytest.raises(AccessDenied) as caught:
                use("m-2.safetensors")
            assert caught.value.code == "file_not_granted"
            assert caught.value.details["file"] == "m-2.safetensors"


def test_an_index_that_needs_a_file_that_was_not_granted() -> None:
    with Version(sharded()).model("m-1.safetensors", "m.safetensors.index.json") as model:
        with pytest.raises(AccessDenied) as caught:
            model.tensors()
        assert caught.value.details["file"] == "m-2.safetensors"
        assert set(model.tensors("m-1.safetensors")) == {"a"}


def test_what_a_model_tells_of_itself() -> None:
    version = Version(sharded())
    model = version.model(obligations=Obligations(memory_only=True, grace_s=9))
    assert model.name == "m@7"
    assert model.files == tuple(sorted(sharded()))
    assert model.size == sum(map(len, sharded().values()))
    assert model.labels == {"team": "nlp"}
    model.labels["team"] = "x"
    assert model.labels == {"team": "nlp"}
    assert model.obligations.memory_only
    assert model.manifest is version.manifest
    assert repr(model) == "<Model m@7, 3 files>"
    assert version.bytes_read == 0
    model.close()
    assert repr(model) == "<Model m@7, 3 files, closed>"


def refuse(limit: int):
    def fits(size: int) -> None:
        if size > limit:
            raise Unavailable("insufficient_memory", f"{size} of {limit}")

    return fits


def test_a_model_that_cannot_fit_is_refused_before_anything_is_read() -> None:
    files = {MODEL: FILE, "b.safetensors": save({"z": np.zeros(9)})}
    version = Version(files)
    total = sum(map(len, files.values()))
    model = version.model(fits=refuse(total - 1))
    for use in (model.tensors, model.state_dict, model.path):
        with pytest.raises(Unavailable, match=str(total)):
            use()
    with pytest.raises(Unavailable):
        version.model(fits=refuse(len(FILE) - 1)).read_bytes(MODEL)
    assert version.bytes_read == 0
    assert model.tensor("b").shape == (2,)  # but what does fit can be had
    model.close()
    with Version(files).model(fits=refuse(total)) as model:
        model.tensors()
    with Version(files).model(fits=refuse(0)) as model, pytest.raises(Unavailable):
        model.open(MODEL)


def test_many_threads_decrypt_each_byte_once() -> None:
    files = {f"m-{n}.safetensors": save({f"t{n}": np.full(9000, n, "f4")}) for n in range(4)}
    version = Version(files, segment_length=256)
    barrier = threading.Barrier(8)

    def job(number: int) -> bool:
        barrier.wait()
        n = number % 4
        if number % 2:
            return bool((model.tensors()[f"t{n}"] == n).all())
        with model.open(f"m-{n}.safetensors") as file:
            return file.read() == files[f"m-{n}.safetensors"]

    with version.model() as model, ThreadPoolExecutor(8) as pool:
        assert all(pool.map(job, range(8)))
    assert version.bytes_read == sum(map(len, files.values()))


def test_large_files_go_one_by_one_in_strides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelvault.loader.resident._SMALL", 1000)
    monkeypatch.setattr("modelvault.loader.resident.STRIDE", 5000)
    version = Version({MODEL: FILE, "s.safetensors": save({"z": np.zeros(9)})})
    with version.model() as model:
        assert len(model.tensors()) == 6
    reads = version.readers[MODEL].reads
    assert len(reads) > 10
    assert sum(length for _, length in reads) == len(FILE)
    assert all(offset % (SEGMENT - 32) == 0 for offset, _ in reads)


@pytest.mark.parametrize("use", ["tensors", "tensor", "read_bytes", "open", "path", "state_dict",
                                 "tensor_infos"])  # fmt: skip
def test_nothing_after_a_revocation(use: str) -> None:
    version = Version({MODEL: FILE})
    model = version.model()
    arguments = {"tensor": ("w",), "read_bytes": (MODEL,), "open": (MODEL,)}.get(use, ())
    opened = model.open(MODEL)
    model.tensors()
    version.lease.revoked = True
    with pytest.raises(AccessDenied, match="the lease was revoked"):
        getattr(model, use)(*arguments)
    with pytest.raises(AccessDenied, match="the lease was revoked"):
        opened.read(1)
    model.close()
    assert version.closed == 1


def test_a_revocation_stops_a_long_decryption(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelvault.loader.resident.STRIDE", 5000)
    version = Version({MODEL: FILE})
    reader = version.readers[MODEL]

    def revoke_later() -> None:
        version.lease.revoked = len(reader.reads) == 3

    reader.before = revoke_later
    model = version.model()
    with pytest.raises(AccessDenied):
        model.read_bytes(MODEL)
    assert len(reader.reads) == 3
    model.close()


@pytest.mark.parametrize("position", [0, 80, 1200, -1])
def test_altered_ciphertext_is_refused_naming_the_file(position: int) -> None:
    version = Sealed({MODEL: FILE, "empty": b"", "x.json": b"[]"})
    version.flip(MODEL, position)
    model = version.model()
    with pytest.raises(IntegrityError, match=MODEL):
        model.tensors()
    with pytest.raises(IntegrityError, match=MODEL):
        model.path()
    assert model.open("x.json").read() == b"[]"
    model.close()


def test_an_empty_file_is_checked_too() -> None:
    version = Sealed({"empty": b"", "other": b""})
    version.flip("empty", -1)
    with version.model() as model:
        for use in (model.read_bytes, model.path):
            with pytest.raises(IntegrityError, match="empty"):
                use("empty")
        with pytest.raises(IntegrityError, match="empty"):
            model.open("empty").read()
        assert model.open("other").read() == b""
        assert len(model.read_bytes("other")) == 0
    sealed = Sealed({"other": b""})
    with sealed.model() as model:
        for _ in range(3):
            model.read_bytes("other")
    assert len(sealed.store.reads) == 3  # leaf list, header, segment: once


def test_a_session_can_keep_models_weakly() -> None:
    import weakref

    model = Version({MODEL: FILE}).model()
    assert isinstance(weakref.ref(model)(), Model)
    assert model in {model}
    model.close()
