"""modelvault:// through the real fsspec, pandas, pyarrow and safetensors."""

from __future__ import annotations

import gc
import io
import multiprocessing
import operator
import os
import pickle
import runpy
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelvault import connect, wiring
from modelvault.client.session import Session
from modelvault.errors import AccessDenied, Conflict, InvalidRequest, NotFound
from support.engines import ROOT, need
from support.homes import isolated, safetensors_bytes
from support.plaintext import Plaintext

fsspec = need("fsspec")
pandas = need("pandas")

OPTIONS = {"purpose": "inference"}
WEIGHTS = np.random.default_rng(1).standard_normal((64, 64), np.float32)
FRAME = {"id": list(range(2000)), "value": WEIGHTS.ravel()[:2000].tolist()}


class Scene:
    """A vault with one model `data`, whose files are nowhere in the clear any more."""

    def __init__(self, folder: Path, vault: Session) -> None:
        self.folder = folder
        self.vault = vault
        files = folder / "files"
        (files / "deep/er").mkdir(parents=True)
        pandas.DataFrame(FRAME).to_csv(files / "x.csv", index=False)
        pandas.DataFrame(FRAME).to_csv(files / "x.csv.gz", index=False)
        pandas.DataFrame(FRAME).to_parquet(files / "deep/x.parquet")
        (files / "deep/er/notes.txt").write_text("one\ntwo\n" * 600)
        (files / "m.safetensors").write_bytes(safetensors_bytes({"w": WEIGHTS}))
        with zipfile.ZipFile(files / "z.zip", "w") as archive:
            archive.writestr("inner.txt", "inside")
        self.plaintext = Plaintext(files)
        vault.create("data")
        vault.push(files, "data:prod")
        self.notes = (files / "deep/er/notes.txt").read_bytes()
        self.csv = (files / "x.csv").read_bytes()
        shutil.rmtree(files)

    def leases(self) -> int:
        """How many run now, those of `fs` left out."""
        gc.collect()
        return sum(lease.subject != "local:shared" for lease in self.vault.leases("data"))

    def holders(self) -> set[str]:
        """Who has ever had one."""
        leases = self.vault.leases("data", ended=True, limit=1000)
        return {lease.subject for lease in leases}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """All that anybody writes goes below one folder, which is searched at the end."""
    folder = tmp_path_factory.mktemp("fsspec")
    with pytest.MonkeyPatch.context() as patched:
        isolated(folder, patched)
        (folder / "tmp").mkdir()
        patched.setenv("TMPDIR", str(folder / "tmp"))
        patched.setattr(tempfile, "tempdir", None)
        wiring.init()
        with connect() as vault:
            made = Scene(folder, vault)
            yield made
            for name in (*CACHES, "dir", "zip"):  # fsspec keeps these, and they what is in them
                fsspec.get_filesystem_class(name).clear_instance_cache()
            assert made.leases() == 0
    assert made.plaintext.left(folder) == []


@pytest.fixture(scope="module")
def fs(scene: Scene) -> Iterator[Any]:
    """One for most tests, under an identity of its own."""
    made = fsspec.filesystem("modelvault", **OPTIONS)
    with as_somebody(scene.vault, "shared"):
        made.ls("data@1")
    yield made
    made.close()


@contextmanager
def as_somebody(vault: Session, sub: str, group: str = "admins") -> Iterator[str]:
    """Whoever connects here is `sub`; the token."""
    with pytest.MonkeyPatch.context() as patched:
        token = vault.mint_token(sub=sub, groups=[group])
        patched.setenv("MODELVAULT_TOKEN", token)
        yield token


# pandas, pyarrow, safetensors


READS: dict[str, Callable[[], Any]] = {
    "csv": lambda: pandas.read_csv("modelvault://data@1/x.csv", storage_options=OPTIONS),
    "gzip": lambda: pandas.read_csv("modelvault://data@1/x.csv.gz", storage_options=OPTIONS),
    "tag": lambda: pandas.read_csv("modelvault://data:prod/x.csv", storage_options=OPTIONS),
    "tenant": lambda: pandas.read_csv("modelvault://default/data@1/x.csv", storage_options=OPTIONS),
    "bare": lambda: pandas.read_csv("modelvault://data/x.csv", storage_options=OPTIONS),
    "parquet": lambda: pandas.read_parquet(
        "modelvault://data@1/deep/x.parquet", storage_options=OPTIONS
    ),
}


@pytest.mark.parametrize("name", READS)
def test_pandas_reads_it(scene: Scene, name: str) -> None:
    frame = READS[name]()
    assert frame["id"].tolist() == FRAME["id"]
    np.testing.assert_allclose(frame["value"], FRAME["value"])
    assert scene.leases() == 0, "a table that was read holds no lease"


def test_parquet_reads_only_the_columns_asked_for(scene: Scene) -> None:
    parquet = need("pyarrow.parquet")
    with tempfile.TemporaryDirectory() as folder:
        large = {name: np.random.default_rng(2).random(400_000) for name in "abcd"}
        place = Path(folder, "large.parquet")
        pandas.DataFrame(large).to_parquet(place, compression="none")
        scene.vault.create("large")
        scene.vault.push(place, "large")
    fs = fsspec.filesystem("modelvault", **OPTIONS)
    table = parquet.read_table("large/large.parquet", columns=["b"], filesystem=fs)
    assert table.column_names == ["b"]
    stats = fs._leases.model("large").stats()
    assert stats.costs.decrypted_bytes < fs.size("large/large.parquet") / 2


def test_many_threads_read_at_once(scene: Scene, fs: Any) -> None:
    def read(number: int) -> bool:
        with fs.open("data@1/x.csv") as file:
            file.seek(number)
            return bool(file.read() == scene.csv[number:])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(0, 800, 10)))


def test_safetensors_opens_it(scene: Scene, fs: Any) -> None:
    numpy_door, safetensors = need("safetensors.numpy"), need("safetensors")
    loaded = numpy_door.load(fs.cat("data:prod/m.safetensors"))
    np.testing.assert_array_equal(loaded["w"], WEIGHTS)
    with safetensors.safe_open(fs.path("data:prod/m.safetensors"), "numpy") as opened:
        np.testing.assert_array_equal(opened.get_slice("w")[3:5], WEIGHTS[3:5])
    assert [path.name for path in sorted(fs.path("data:prod/deep").iterdir())] == [
        "er", "x.parquet",
    ]  # fmt: skip


def test_the_example(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(ROOT / "examples/fsspec_pandas.py"))["main"]
    main("data:prod", "x.csv", "m.safetensors")
    assert capsys.readouterr().out.splitlines() == [
        "x.csv: 2000 rows of id, value",
        "files: data:prod/deep/er/notes.txt, data:prod/deep/x.parquet, data:prod/m.safetensors, "
        "data:prod/x.csv, data:prod/x.csv.gz, data:prod/z.zip",
        "m.safetensors: w",
        "by name: w",
    ]


# fsspec's own ways


LOOKS: list[tuple[Callable[[Any], Any], Any]] = [
    (lambda fs: fs.ls("data@1", detail=False),
     ["data@1/deep", "data@1/m.safetensors", "data@1/x.csv", "data@1/x.csv.gz", "data@1/z.zip"]),
    (lambda fs: fs.ls("modelvault://data@1/deep/", detail=False),
     ["data@1/deep/er", "data@1/deep/x.parquet"]),
    (lambda fs: fs.ls("data@1/x.csv", detail=False), ["data@1/x.csv"]),
    (lambda fs: fs.glob("data@1/*.csv"), ["data@1/x.csv"]),
    (lambda fs: fs.glob("modelvault://data@1/**/*.txt"), ["data@1/deep/er/notes.txt"]),
    (lambda fs: fs.find("data@1/deep"), ["data@1/deep/er/notes.txt", "data@1/deep/x.parquet"]),
    (lambda fs: list(fs.walk("data@1/deep")),
     [("data@1/deep", ["er"], ["x.parquet"]), ("data@1/deep/er", [], ["notes.txt"])]),
    (lambda fs: fs.info("data@1/deep"), {"name": "data@1/deep", "size": 0, "type": "directory"}),
    (lambda fs: fs.info("data@1")["type"], "directory"),
    (lambda fs: fs.size("data@1/deep/er/notes.txt"), 4800),
    (lambda fs: fs.info("data@1/x.csv")["version"], 1),
    (lambda fs: (fs.exists("data@1/x.csv"), fs.isfile("data@1/x.csv"), fs.isdir("data@1/x.csv")),
     (True, True, False)),
    (lambda fs: (fs.exists("data@1/de"), fs.isfile("data@1/de"), fs.isdir("data@1/deep")),
     (False, False, True)),
    (lambda fs: (fs.exists("data@7/x.csv"), fs.exists("nobody/x.csv")), (False, False)),
    (lambda fs: fs.read_block("data@1/deep/er/notes.txt", 3, 5, b"\n"), b"two\none\n"),
    (lambda fs: fs.cat_ranges(["data@1/deep/er/notes.txt"] * 2, [0, 4], [3, 7]), [b"one", b"two"]),
    (lambda fs: fs.cat("data@1/deep/er/*")["data@1/deep/er/notes.txt"][:4], b"one\n"),
    (lambda fs: fs.cat_file("data@1/deep/er/notes.txt", -4), b"two\n"),
    (lambda fs: fs.tail("data@1/deep/er/notes.txt", 4), b"two\n"),
    (lambda fs: fs.read_text("data@1/deep/er/notes.txt")[:7], "one\ntwo"),
    (lambda fs: fs.open("data@1/x.csv.gz", compression="infer").read(3), b"id,"),
    (lambda fs: fs.open("data@1/x.csv", cache_type="mmap").read(3), b"id,"),
    (lambda fs: fs.get_mapper("data@1/deep/er")["notes.txt"][:3], b"one"),
    (lambda fs: fs.ukey("data@1/x.csv") == fs.ukey("data@1/x.csv"), True),
    (lambda fs: fs.ukey("data@1/x.csv") == fs.ukey("data@1/x.csv.gz"), False),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(LOOKS)))
def test_looking_and_reading(fs: Any, number: int) -> None:
    call, expected = LOOKS[number]
    assert call(fs) == expected


def test_a_file_is_seekable_and_reads_what_it_is_asked_for(scene: Scene, fs: Any) -> None:
    with fs.open("data@1/deep/er/notes.txt") as file:
        assert (file.size, file.readable(), file.seekable(), file.writable()) == (
            4800, True, True, False,
        )  # fmt: skip
        file.seek(-4, io.SEEK_END)
        assert file.read() == b"two\n"
        file.seek(4)
        assert file.read(3) == b"two"
    with fs.open("data@1/deep/er/notes.txt", "r") as text:
        assert text.readlines()[:2] == ["one\n", "two\n"]


def test_file_systems_around_it_that_keep_nothing(scene: Scene, fs: Any) -> None:
    with fsspec.open("zip://inner.txt::modelvault://data@1/z.zip", modelvault=OPTIONS) as file:
        assert file.read() == b"inside"
    inside = fsspec.filesystem("dir", path="data@1/deep", fs=fs)
    assert inside.cat("er/notes.txt") == scene.notes


def test_one_lease_for_a_reference_until_nobody_needs_it(scene: Scene) -> None:
    fs = fsspec.filesystem("modelvault", **OPTIONS)
    assert scene.leases() == 0
    fs.ls("data@1"), fs.cat("data@1/x.csv")
    assert scene.leases() == 1
    file = fs.open("data@1/x.csv")
    del fs
    assert (scene.leases(), file.read(3)) == (1, b"id,")
    del file
    assert scene.leases() == 0


def test_closed(scene: Scene) -> None:
    fs = fsspec.filesystem("modelvault", **OPTIONS)
    file = fs.open("data@1/x.csv")
    fs.close()
    fs.close()
    assert scene.leases() == 0
    for use in (file.read, lambda: fs.ls("data@1")):
        with pytest.raises(Conflict) as refused:
            use()
        assert refused.value.code == "closed"


# refused


CACHES = sorted(
    name
    for name in fsspec.available_protocols()
    if name in ("simplecache", "filecache", "blockcache", "cached")
)
CACHED: dict[str, Callable[[Any, str], object]] = {
    "open": lambda fs, path: fs.open(path).read(),
    "cat": lambda fs, path: fs.cat(path),
    "cat_file": lambda fs, path: fs.cat_file(path),
    "cat_ranges": lambda fs, path: fs.cat_ranges([path], [0], [99], on_error="raise"),
    "head": lambda fs, path: fs.head(path),
    "read_block": lambda fs, path: fs.read_block(path, 0, 99),
    "get": lambda fs, path: fs.get(path, tempfile.mkdtemp()),
    "get_file": lambda fs, path: fs.get_file(path, tempfile.mktemp()),  # noqa: S306
    "download": lambda fs, path: fs.download(path, tempfile.mkdtemp()),
    "text": lambda fs, path: fs.open(path, "r").read(),
}


def test_every_cache_that_fsspec_has_is_tried() -> None:
    cached = need("fsspec.implementations.cached")
    kinds = {
        name
        for name in fsspec.available_protocols()
        if "cache" in name
        and issubclass(fsspec.get_filesystem_class(name), cached.CachingFileSystem)
    }
    assert kinds <= set(CACHES)
    assert len(CACHES) == 4


@pytest.mark.parametrize("cache", CACHES)
def test_caches_that_write_to_a_disk(scene: Scene, fs: Any, cache: str) -> None:
    for way, call in CACHED.items():
        for options in ({}, {"compression": "gzip"}, {"same_names": True}):
            path = "data@1/x.csv.gz" if options else "data@1/x.csv"
            storage = Path(tempfile.mkdtemp())
            around = fsspec.filesystem(
                cache, fs=fs, cache_storage=str(storage), skip_instance_cache=True, **options
            )
            for _again in range(2):
                with pytest.raises(AccessDenied) as refused:
                    call(around, path)
                assert refused.value.code == "plaintext_to_disk", (way, options)
            assert [file for file in storage.rglob("*") if file.name != "cache"] == []


CHAINED: dict[str, Callable[[Any], object]] = {
    "chain": lambda _fs: pandas.read_csv(
        "simplecache::modelvault://data@1/x.csv", storage_options={"modelvault": OPTIONS}
    ),
    "blocks": lambda _fs: fsspec.open(
        "blockcache::modelvault://data@1/x.csv", modelvault=OPTIONS
    ).open(),
    "zip": lambda _fs: fsspec.open(
        "zip://inner.txt::filecache::modelvault://data@1/z.zip", modelvault=OPTIONS
    ).open(),
    "many": lambda _fs: fsspec.open_files(
        "filecache::modelvault://data@1/*.csv", modelvault=OPTIONS
    ).__enter__(),
    "local name": lambda _fs: fsspec.open_local(
        "simplecache::modelvault://data@1/x.csv", modelvault=OPTIONS
    ),
    "get": lambda fs: fs.get("data@1", tempfile.mkdtemp(), recursive=True),
    "download": lambda fs: fs.download("data@1/x.csv", tempfile.mkdtemp()),
    "get_file": lambda fs: fs.get_file("data@1/x.csv", tempfile.mkdtemp() + "/x"),
    "get of a folder inside": lambda fs: fsspec.filesystem("dir", path="data@1", fs=fs).get(
        "x.csv", tempfile.mkdtemp()
    ),
    "from a loop": lambda fs: (
        need("fsspec.implementations.asyn_wrapper")
        .AsyncFileSystemWrapper(fs, asynchronous=False)
        .get_file("data@1/x.csv", tempfile.mkdtemp() + "/x")
    ),
}


@pytest.mark.parametrize("name", CHAINED)
def test_chains_that_write_to_a_disk(fs: Any, name: str) -> None:
    with pytest.raises(AccessDenied) as refused:
        CHAINED[name](fs)
    assert refused.value.code == "plaintext_to_disk"
    assert "modelvault export" in refused.value.hint


LAYERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "dir": ("x.csv", lambda fs: fsspec.filesystem("dir", path="data@1", fs=fs)),
    "zip": (
        "inner.txt",
        lambda _fs: fsspec.filesystem(
            "zip", fo="modelvault://data@1/z.zip", target_options=OPTIONS
        ),
    ),
    "zip in a folder": (
        "inner.txt",
        lambda fs: fsspec.filesystem(
            "zip", fo=fsspec.filesystem("dir", path="data@1", fs=fs).open("z.zip")
        ),
    ),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("cache", CACHES)
def test_caches_around_what_is_around_ours(scene: Scene, fs: Any, cache: str, layer: str) -> None:
    """They never call ours: they read files that somebody between has opened."""
    path, make = LAYERS[layer]
    between = make(fs)
    assert between.cat(path), "without a cache it can be read"
    storage = Path(tempfile.mkdtemp())
    around = fsspec.filesystem(
        cache, fs=between, cache_storage=str(storage), skip_instance_cache=True
    )
    for call in (lambda: around.open(path).read(), lambda: around.cat(path)):
        with pytest.raises(AccessDenied) as refused:
            call()
        assert refused.value.code == "plaintext_to_disk"
    kept = [file.read_bytes() for file in storage.rglob("*") if file.name != "cache"]
    assert not any(b"".join(kept)), "at most an empty file, or one of zeros"
    assert between.cat(path), "and can be read afterwards"


def test_no_local_name_without_a_cache(scene: Scene) -> None:
    with pytest.raises(ValueError, match="local_file=True"):
        fsspec.open_local("modelvault://data@1/x.csv", **OPTIONS)


WRITES: dict[str, Callable[[Any], object]] = {
    "open": lambda fs: fs.open("data@1/new", "wb"),
    "append": lambda fs: fs.open("data@1/x.csv", "ab"),
    "update": lambda fs: fs.open("data@1/x.csv", "r+b"),
    "text": lambda fs: fs.write_text("data@1/new", "x"),
    "pipe": lambda fs: fs.pipe("data@1/new", b"x"),
    "put": lambda fs: fs.put(__file__, "data@1/new"),
    "upload": lambda fs: fs.upload(__file__, "data@1/new"),
    "touch": lambda fs: fs.touch("data@1/new"),
    "copy": lambda fs: fs.cp("data@1/x.csv", "data@1/y.csv"),
    "move": lambda fs: fs.mv("data@1/x.csv", "data@1/y.csv"),
    "rename": lambda fs: fs.rename("data@1/x.csv", "data@1/y.csv"),
    "rm": lambda fs: fs.rm("data@1", recursive=True),
    "rm_file": lambda fs: fs.rm_file("data@1/x.csv"),
    "delete": lambda fs: fs.delete("data@1/x.csv"),
    "mkdir": lambda fs: fs.mkdir("data@1/new"),
    "makedirs": lambda fs: fs.makedirs("data@1/new/er"),
    "rmdir": lambda fs: fs.rmdir("data@1/deep"),
    "mapper": lambda fs: fs.get_mapper("data@1").update(new=b"x"),
    "pandas": lambda fs: pandas.DataFrame(FRAME).to_csv(
        "modelvault://data@1/new.csv", storage_options=OPTIONS
    ),
}


@pytest.mark.parametrize("name", WRITES)
def test_writing(fs: Any, name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        WRITES[name](fs)
    assert (refused.value.code, "push" in refused.value.hint) == ("read_only", True)


BAD: list[tuple[Callable[[Any], object], type[Exception], str]] = [
    (lambda fs: fs.ls(""), InvalidRequest, "no_model_named"),
    (lambda fs: fs.ls("modelvault://"), InvalidRequest, "no_model_named"),
    (lambda fs: fs.find(""), InvalidRequest, "no_model_named"),
    (lambda fs: fs.ls("da ta/x"), InvalidRequest, "bad_reference"),
    (lambda fs: fs.open("data@1"), FileNotFoundError, "no_file"),
    (lambda fs: fs.open("data@1/deep"), FileNotFoundError, "no_file"),
    (lambda fs: fs.open("data@1/../x.csv"), FileNotFoundError, "no_file"),
    (lambda fs: fs.info("data@1/nothing"), FileNotFoundError, "no_file"),
    (lambda fs: fs.ls("data@1/nothing"), FileNotFoundError, "no_file"),
    (lambda fs: fs.path("data@1/nothing"), FileNotFoundError, "no_file"),
    (lambda fs: fs.cat("data@9/x.csv"), NotFound, "no_version"),
    (lambda fs: fs.ls("nobody"), FileNotFoundError, "no_model"),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_what_isnt_there(fs: Any, number: int) -> None:
    call, kind, code = BAD[number]
    with pytest.raises(kind) as refused:
        call(fs)
    assert getattr(refused.value, "code", None) == code
    assert pickle.loads(pickle.dumps(refused.value)).code == code  # noqa: S301


@pytest.mark.parametrize(
    ("options", "code", "hint"),
    [
        ({"purpose": "inference", "token": "x"}, "unknown_option", "MODELVAULT_TOKEN"),
        ({"purpose": "inference", "purpos": "x"}, "unknown_option", "purpose, broker, home"),
    ],
)
def test_options(options: dict[str, str], code: str, hint: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        fsspec.filesystem("modelvault", **options)
    assert (refused.value.code, hint in refused.value.hint) == (code, True)


def test_what_for(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest) as refused:
        fsspec.filesystem("modelvault").ls("data@1")
    assert (refused.value.code, "storage_options" in refused.value.hint) == ("no_purpose", True)
    monkeypatch.setenv("MODELVAULT_PURPOSE", "evaluation")
    fsspec.filesystem("modelvault").ls("data@1")
    purposes = {lease.purpose for lease in scene.vault.leases("data", ended=True)}
    assert purposes == {"inference", "evaluation"}


def test_a_denial_is_no_absence(scene: Scene) -> None:
    fs = fsspec.filesystem("modelvault", purpose="mining")
    with as_somebody(scene.vault, "reader", "inference"):
        for ask in (fs.exists, fs.isfile, fs.isdir, fs.ls):
            with pytest.raises(AccessDenied):
                ask("data@1/x.csv")


# other processes


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_worker_connects_for_itself(scene: Scene, fs: Any, method: str) -> None:
    with as_somebody(scene.vault, method) as token, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
        carried = pickle.dumps(fs)
        assert token.encode() not in carried
        assert len(carried) < 500, "nothing but options"
        with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
            read = pool.submit(operator.methodcaller("cat", "data@1/deep/er/notes.txt"), fs)
            assert read.result(60) == scene.notes
    assert f"local:{method}" in scene.holders()


def test_a_forked_child_makes_its_own(scene: Scene, fs: Any) -> None:
    """Not by a pickle: the very object that its parent uses, with a file of it open."""
    file = fs.open("data@1/x.csv")
    with as_somebody(scene.vault, "child"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
        if child == 0:
            try:
                right = fs.cat("data@1/deep/er/notes.txt") == scene.notes
                fs.close()
            finally:
                os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert "local:child" in scene.holders()
    assert file.read() == scene.csv, "the parent's lease is as it was"
