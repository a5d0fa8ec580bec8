"""Many sessions of one identity write one version."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from modelvault import connect, wiring
from modelvault.adapters.objects_folder import FolderStore
from modelvault.client.saving_ranks import Ticket
from modelvault.client.session import Session
from modelvault.errors import Conflict, InvalidRequest, ModelVaultError, NotFound, Unavailable
from support.homes import isolated

STATES = [{f"layer.{rank}": np.full((40, 50), rank, "f4")} for rank in range(3)]
PATHS = [f"rank-{rank}.safetensors" for rank in range(3)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        made = isolated(tmp_path_factory.mktemp("ranks"), patch)
        wiring.init()
        with connect() as vault:
            for name in ("run", "keep", "lost", "gone", "wrong", "other"):
                vault.create(name)
        yield made


@pytest.fixture
def ranks(home: Path) -> Iterator[list[Session]]:
    sessions = [connect() for _ in STATES]
    yield sessions
    for session in sessions:
        session.close()


def objects(home: Path) -> set[Path]:
    return {path for path in (home / "objects").rglob("*") if path.is_file()}


def parts(ranks: list[Session]) -> list:
    files: list[dict[str, bytes]] = [{"config.json": b"{}"}, {}, {}]
    return [
        session.part(path, state, files=more)
        for session, path, state, more in zip(ranks, PATHS, STATES, files, strict=True)
    ]


def test_each_its_own_and_one_commits(ranks: list[Session]) -> None:
    own = parts(ranks)
    sizes = {path: size for part in own for path, size in part.sizes.items()}
    leading = ranks[0].open_joint("run:step-1", sizes, [*own[0].sizes])
    assert set(leading._keys.files) == {"config.json", PATHS[0]}
    sent = list(leading.write(own[0]))
    for session, part in zip(ranks[1:], own[1:], strict=True):
        ticket = pickle.loads(pickle.dumps(leading.ticket))  # noqa: S301  as a collective sends it
        with session.join_joint(ticket, [*part.sizes]) as joint:
            assert set(joint._keys.files) == set(part.sizes)
            sent += pickle.loads(pickle.dumps(joint.write(part)))  # noqa: S301
    saved = ranks[0].commit_joint(leading, sent, keep=2, labels={"ranks": "3"})
    assert (saved.name, saved.tag, saved.size) == ("run@1", "step-1", sum(sizes.values()))
    with ranks[2].load("run:step-1", purpose="inference") as model:
        assert model.labels == {"ranks": "3"}
        found = model.tensors()
        for state in STATES:
            for name, array in state.items():
                assert np.array_equal(found[name], array)
        del found


def test_a_rank_that_died(ranks: list[Session], home: Path) -> None:
    """Without its file there is no version, and what the others have put goes."""
    before = objects(home)
    own = parts(ranks)
    sizes = {path: size for part in own for path, size in part.sizes.items()}
    leading = ranks[0].open_joint("lost:step-1", sizes, [*own[0].sizes])
    sent = list(leading.write(own[0]))
    with ranks[1].join_joint(leading.ticket, [PATHS[1]]) as joint:
        sent += joint.write(own[1])
    with pytest.raises(InvalidRequest) as refused:
        ranks[0].commit_joint(leading, sent)
    assert refused.value.code == "not_as_declared"
    assert PATHS[2] in refused.value.message
    assert objects(home) == before
    with pytest.raises(NotFound):
        ranks[2].join_joint(leading.ticket, [PATHS[2]])
    with pytest.raises(NotFound):
        ranks[0].load("lost", purpose="inference")
    with pytest.raises(Conflict):
        leading.commit(sent)


KILLED = """
import os
import modelvault, numpy as np
vault = modelvault.connect()
own = vault.part("rank-0", {"a": np.arange(100_000, dtype="f4")})
leading = vault.open_joint("killed:step-1", {**own.sizes, "rank-1": 10}, ["rank-0"])
leading.write(own)
print(leading.ticket.upload, flush=True)
os.kill(os.getpid(), 9)
"""


def test_the_leader_is_killed(ranks: list[Session], home: Path) -> None:
    """No version, no plaintext, and the next save is none the worse for it."""
    ranks[0].create("killed")
    child = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, check=False)
    assert child.returncode == -9, child.stderr
    needle = np.arange(40_000, 41_000, dtype="f4").tobytes()
    assert not [path for path in home.parent.rglob("*")
                if path.is_file() and needle in path.read_bytes()]  # fmt: skip
    with pytest.raises(NotFound):
        ranks[0].load("killed", purpose="inference")
    ticket = Ticket(child.stdout.decode().strip(), "killed:step-1")
    with ranks[1].join_joint(ticket, ["rank-1"]) as joint:  # until it is given up or expires
        assert set(joint._keys.files) == {"rank-1"}
    saved = ranks[0].save({"a": np.ones(3)}, "killed:step-1", keep=1)
    assert (saved.version, saved.pruned, saved.not_pruned) == (1, (), ())


COMMITTED = """
import os
import modelvault, numpy as np
from modelvault.client import saving_ranks
saving_ranks.tag_new = lambda *_: os.kill(os.getpid(), 9)
vault = modelvault.connect()
own = vault.part("rank-0.safetensors", {"a": np.arange(1000, dtype="f4")})
leading = vault.open_joint("between:step-1", own.sizes, [*own.sizes])
vault.commit_joint(leading, leading.write(own))
"""


def test_the_leader_is_killed_between_the_version_and_its_tag(ranks: list[Session]) -> None:
    """It stands, whole, and can be tagged by hand."""
    ranks[0].create("between")
    child = subprocess.run([sys.executable, "-c", COMMITTED], capture_output=True, check=False)
    assert child.returncode == -9, child.stderr
    shown = ranks[1].show("between")
    assert ([one.version for one in shown.versions], shown.summary.tags) == ([1], ())
    ranks[1].tag("between@1", "step-1")
    with ranks[1].load("between:step-1", purpose="inference") as model:
        assert np.array_equal(model.tensor("a"), np.arange(1000, dtype="f4"))


JOINED = """
import os, sys
import modelvault, numpy as np
from modelvault.adapters.objects_folder import FolderStore
from modelvault.adapters.objects_folder import FolderStore
from modelvault.client.saving_ranks import Ticket
vault = modelvault.connect()
own = vault.part(sys.argv[2], {"b": np.arange(100_000, dtype="f4")})
joint = vault.join_joint(Ticket(sys.argv[1], "half:step-1"), [sys.argv[2]])
put = FolderStore.put
FolderStore.put = lambda *args: (put(*args), os.kill(os.getpid(), 9))
joint.write(own)
"""


def test_a_rank_that_is_killed_is_started_anew(ranks: list[Session], home: Path) -> None:
    """Amid its writing: another process takes its place by the same ticket, and begins its files
    again. What the dead one put belongs to no version, and `gc` takes it in its time."""
    ranks[0].create("half")
    first = ranks[0].part(PATHS[0], {"a": np.ones((40, 50), "f4")})
    second = ranks[1].part(PATHS[1], {"b": np.arange(100_000, dtype="f4")})
    leading = ranks[0].open_joint("half:step-1", first.sizes | second.sizes, [PATHS[0]])
    sent = list(leading.write(first))
    before = objects(home)
    line = [sys.executable, "-c", JOINED, leading.ticket.upload, PATHS[1]]
    child = subprocess.run(line, capture_output=True, check=False)
    assert child.returncode == -9, child.stderr
    left = objects(home) - before
    assert left
    with ranks[1].join_joint(leading.ticket, [PATHS[1]]) as joint:
        sent += joint.write(second)
    assert ranks[0].commit_joint(leading, sent).version == 1
    with ranks[2].load("half:step-1", purpose="inference") as model:
        assert np.array_equal(model.tensor("b"), np.arange(100_000, dtype="f4"))
        named = {name for file in model.manifest.files for name in (file.object, file.leaves)}
    assert not [path for path in left if path.name in {Path(name).name for name in named}]


def test_a_leader_that_gives_up(ranks: list[Session]) -> None:
    (part,) = parts(ranks)[1:2]
    with ranks[0].open_joint("gone", part.sizes, [PATHS[1]]) as leading:
        ticket = leading.ticket
    with pytest.raises(NotFound) as refused:
        ranks[1].join_joint(ticket, [PATHS[1]])
    assert refused.value.code == "no_upload"
    leading.abandon()  # again is fine


def test_only_ones_own_and_only_once(ranks: list[Session]) -> None:
    own = parts(ranks)
    sizes = {path: size for part in own for path, size in part.sizes.items()}
    with ranks[0].open_joint("wrong", sizes, [PATHS[0]]) as leading:
        for part in (own[0], own[1]):  # config.json isn't among the own ones
            with pytest.raises(Conflict) as refused:
                leading.write(part)
            assert refused.value.code == "not_ours"
        joint = ranks[1].join_joint(leading.ticket, [PATHS[1]])
        joint.write(own[1])
        with pytest.raises(Conflict):
            joint.write(own[1])
        for paths in (["nowhere"], [PATHS[2], PATHS[2]]):
            with pytest.raises(InvalidRequest):
                ranks[2].join_joint(leading.ticket, paths)


def test_what_another_save_has_put_stays(ranks: list[Session], home: Path) -> None:
    """A process that hands on what is of a version that stands, by mistake or to have it deleted:
    the commit is refused, and giving up deletes none of it."""
    (part,) = parts(ranks)[:1]
    with ranks[0].open_joint("other:step-1", part.sizes, [*part.sizes]) as leading:
        sent = leading.write(part)
        ranks[0].commit_joint(leading, sent)
    stands = objects(home)
    for lie in (lambda one: one, lambda one: msgspec.structs.replace(one, seeds=None)):
        told = [lie(one) for one in sent]
        leading = ranks[0].open_joint("other:step-2", part.sizes, [*part.sizes])
        with pytest.raises(InvalidRequest) as refused:
            ranks[0].commit_joint(leading, told)
        assert refused.value.code == "not_as_declared"
        assert "isn't of this save" in refused.value.message
        ranks[0].open_joint("other:step-2", part.sizes, [*part.sizes]).abandon(told)
        assert objects(home) == stands
    with ranks[1].load("other:step-1", purpose="inference") as model:
        assert len(model.read_bytes("config.json")) == 2


@pytest.mark.parametrize(
    "told",
    [
        lambda sent: (*sent, sent[0]),
        lambda sent: sent[:1],
        lambda sent: [
            msgspec.structs.replace(each, file=msgspec.structs.replace(each.file, size=3))
            for each in sent
        ],
        lambda sent: [
            msgspec.structs.replace(each, file=msgspec.structs.replace(each.file, path="more"))
            for each in sent
        ],
    ],
    ids=["twice", "missing", "size", "path"],
)
def test_a_process_that_tells_something_else(ranks: list[Session], told: Any) -> None:
    (part,) = parts(ranks)[:1]
    with ranks[0].open_joint("wrong", part.sizes, [*part.sizes]) as leading:
        sent = leading.write(part)
        with pytest.raises(InvalidRequest, match=r"config\.json|rank-0|more") as refused:
            leading.commit(told(sent))
    assert refused.value.code == "not_as_declared"


def test_a_store_that_fails_once(
    ranks: list[Session], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that met it writes its files again: the others' need not be."""
    (part,) = parts(ranks)[:1]
    with ranks[0].open_joint("wrong", part.sizes, [*part.sizes]) as leading:
        before = objects(home)
        with monkeypatch.context() as patch:
            patch.setattr(FolderStore, "put", _down)
            with pytest.raises(Unavailable):
                leading.write(part)
        assert objects(home) == before
        ranks[0].commit_joint(leading, leading.write(part))


def _down(*_args: object) -> None:
    raise Unavailable("store_down", "the store doesn't answer")


@pytest.mark.parametrize(
    ("sizes", "own"),
    [
        ({"a": 1}, ["b"]),
        ({"a": 1}, []),
        ({"a": 1}, "a"),
        ({}, []),
        ({"../a": 1}, ["../a"]),
        ({"a": -1}, ["a"]),
    ],
)
def test_openings_that_are_refused(
    ranks: list[Session], sizes: dict[str, int], own: list[str]
) -> None:
    with pytest.raises(InvalidRequest):
        ranks[0].open_joint("wrong", sizes, own)


def test_another_identity_and_another_model(ranks: list[Session]) -> None:
    (part,) = parts(ranks)[1:2]
    with (
        ranks[0].open_joint("wrong", part.sizes, [PATHS[1]]) as leading,
        connect(token=ranks[0].mint_token(sub="other", groups=["admins"])) as other,
    ):
        with pytest.raises(NotFound):
            other.join_joint(leading.ticket, [PATHS[1]])
        elsewhere = Ticket(leading.ticket.upload, "other")
        with pytest.raises(ModelVaultError) as refused:
            ranks[1].join_joint(elsewhere, [PATHS[1]])
        assert refused.value.code == "not_what_was_asked"
