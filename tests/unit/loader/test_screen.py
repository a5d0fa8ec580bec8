from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save

from modelvault.access import Obligations
from modelvault.errors import AccessDenied, IntegrityError
from modelvault.loader.model import Model
from support.loading import BROKEN, Version

PICKLE = pickle.dumps({"w": list(range(2000))}, 2)
SAFE = save({"a": np.zeros(100)})


def zip_of(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, bytes(3000))
    return out.getvalue()


USES = {
    "read_bytes": lambda model, path: model.read_bytes(path),
    "open": lambda model, path: model.open(path),
    "path": lambda model, path: model.path(path),
    "path of all": lambda model, _path: model.path(),
}
# The last one has its data.pkl far behind the bytes that are sniffed.
PICKLES = {
    "pytorch_model.bin": PICKLE,
    "model.safetensors": PICKLE,
    "config.json": pickle.dumps([], 4) + bytes(100),
    "old": b"cos\nsystem\n(S'true'\ntR.",
    "torch.zip": zip_of("archive/data.pkl", "archive/data/0"),
    "hidden.npz": zip_of("a.npy", "b.npy", "c.npy", "archive/data.pkl"),
    "broken.zip": b"PK\x03\x04" + bytes(3000),
    "cut.zip": zip_of("a.npy", "b.npy")[:-10],
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("path", PICKLES)
def test_pickles_are_refused_whatever_they_are_called(path: str, use: str) -> None:
    model = Version({path: PICKLES[path], "other": b"x"}).model()
    with pytest.raises(AccessDenied) as caught:
        USES[use](model, path)
    assert caught.value.code == "pickle_refused"
    assert path in caught.value.message
    assert caught.value.details["reasons"] == ["pickle_refused"]
    assert "allow_pickle" in caught.value.hint
    assert model.open("other").read() == b"x"
    model.close()


@pytest.mark.parametrize("use", ["tensors", "tensor_infos", "state_dict"])
def test_a_pickle_called_safetensors_is_no_source_of_tensors(use: str) -> None:
    files = {"model.safetensors": PICKLE}
    with Version(files).model() as model, pytest.raises(AccessDenied, match="is a pickle"):
        getattr(model, use)()
    allowed = Obligations(allow_pickle=True)
    with Version(files).model(obligations=allowed) as model, pytest.raises(IntegrityError):
        getattr(model, use)()


@pytest.mark.parametrize("path", PICKLES)
def test_pickles_are_had_where_the_policy_allows_them(path: str) -> None:
    with Version({path: PICKLES[path]}).model(obligations=Obligations(allow_pickle=True)) as model:
        assert bytes(model.read_bytes(path)) == PICKLES[path]


def test_what_the_manifest_calls_a_pickle_is_refused_unread() -> None:
    version = Version({"x": b"harmless", "y": b"fine"}, pickles=["x"])
    with version.model() as model:
        with pytest.raises(AccessDenied, match="x is a pickle"):
            model.open("x")
        assert version.bytes_read == 0
        assert model.open("y").read() == b"fine"


def test_harmless_archives_and_files_pass() -> None:
    files = {"a.npz": zip_of("a.npy"), "m.safetensors": SAFE, "empty.bin": b""}
    with Version(files).model() as model:
        for path, data in files.items():
            assert model.open(path).read() == data


def test_an_archive_is_looked_into_without_decrypting_it_all() -> None:
    version = Version({"a.npz": zip_of(*(f"{n}.npy" for n in range(50)))})
    with version.model() as model:
        model.open("a.npz")
        assert version.bytes_read < model.size // 4


def test_a_failing_reader_is_no_clearance() -> None:
    version = Version({"x": b"abc"})
    version.readers["x"].error = BROKEN
    model: Model = version.model()
    for _ in range(2):
        with pytest.raises(IntegrityError, match="x: a segment"):
            model.open("x")
    model.close()
