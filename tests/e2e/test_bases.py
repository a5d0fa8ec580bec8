"""Adapters with their bases, in a real embedded vault."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelvault import connect, wiring
from modelvault.client.bases import WithBase
from modelvault.client.session import Session
from modelvault.errors import AccessDenied, Conflict, InvalidRequest, NotFound
from modelvault.manifest import Provenance
from support.command import call
from support.homes import isolated


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with pytest.MonkeyPatch.context() as patch:
        isolated(tmp_path_factory.mktemp("vault"), patch)
        wiring.init()
        with connect() as session:
            yield session


class Scene:
    """`base:prod` of one version, and `adapter:prod` that was made from it, under own names."""

    def __init__(self, vault: Session, folder: Path) -> None:
        self.vault = vault
        self.folder = folder
        number = len(vault.list()) // 2
        self.base, self.adapter = f"base{number}", f"adapter{number}"
        for name in (self.base, self.adapter):
            vault.create(name)
        self.push_base(b"base")
        self.push_adapter(vault.based_on(f"{self.base}:prod"))

    def push_base(self, data: bytes) -> None:
        self.vault.push(self._file(data), f"{self.base}:prod")

    def push_adapter(self, provenance: Provenance) -> None:
        self.vault.push(self._file(b"adapter"), f"{self.adapter}:prod", provenance=provenance)

    def load(self, session: Session | None = None) -> WithBase:
        return (session or self.vault).load_with_base(f"{self.adapter}:prod", purpose="inference")

    @property
    def leases(self) -> int:
        return sum(len(self.vault.leases(name)) for name in (self.base, self.adapter))

    def loads(self) -> list[tuple[str, str, str]]:
        """What the audit log says of loads: model, outcome, decision."""
        return [
            (entry.model, entry.outcome, entry.decision_id or "")
            for entry in self.vault.entries(limit=1000).entries
            if entry.action == "load" and entry.model in {self.base, self.adapter}
            and entry.outcome in {"allowed", "denied"}
        ]  # fmt: skip

    def _file(self, data: bytes) -> Path:
        path = self.folder / "weights.dat"
        path.write_bytes(data)
        return path


@pytest.fixture
def scene(vault: Session, tmp_path: Path) -> Scene:
    return Scene(vault, tmp_path)


def test_two_leases_two_decisions_and_the_very_version(scene: Scene) -> None:
    scene.push_base(b"another base")  # the tag has moved on since
    with scene.load() as pair:
        assert (pair.adapter.name, pair.base.name) == (f"{scene.adapter}@1", f"{scene.base}@1")
        assert pair.base.open("weights.dat").read() == b"base"
        assert scene.leases == 2
        assert f"{scene.base}@1" in repr(pair)
    loads = scene.loads()
    assert [load[:2] for load in loads] == [(scene.adapter, "allowed"), (scene.base, "allowed")]
    assert len({decision for _, _, decision in loads} - {""}) == 2
    assert scene.leases == 0


def test_both_stay_open_while_a_view_lives(scene: Scene) -> None:
    pair = scene.load()
    view = pair.base.read_bytes("weights.dat")
    with pytest.raises(Conflict, match=f"{scene.base}@1: views of"):
        pair.close()
    assert bytes(view) == b"base"
    del view
    pair.close()
    pair.close()
    assert pair.adapter.closed
    assert pair.base.closed
    assert scene.leases == 0


def test_an_error_on_its_way_closes_both(scene: Scene) -> None:
    kept = []

    def fail() -> None:
        with scene.load() as pair:
            kept.append(pair.base.read_bytes("weights.dat"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        fail()
    assert bytes(kept[0]) == b"base"
    assert any("weights.dat live on" in note for note in caught.value.__notes__)
    assert scene.leases == 0


def test_a_base_that_is_denied(scene: Scene) -> None:
    scene.vault.classify(scene.base, classification="restricted")
    token = scene.vault.mint_token(sub="eve", groups=["ml-engineers", "auditors"])
    told = rf"^the base of {scene.adapter}@1, {scene.base}@1 \(sha256:"
    with connect(token=token) as eve, pytest.raises(AccessDenied, match=told) as caught:
        scene.load(eve)
    assert caught.value.details["model"] == f"default/{scene.base}@1"
    assert scene.leases == 0
    outcomes = [load[:2] for load in scene.loads()]
    assert outcomes == [(scene.adapter, "allowed"), (scene.base, "denied")]


@pytest.mark.parametrize("how", ["deleted", "another digest", "another name"])
def test_a_base_that_isnt_there(scene: Scene, how: str) -> None:
    if how == "deleted":
        scene.push_base(b"a newer one, so that no tag holds the older")
        scene.vault.delete(f"{scene.base}@1")
    else:
        name = f"{scene.base}@1" if how == "another digest" else "nobody"
        scene.push_adapter(Provenance(base=name, base_digest="sha256:" + "0" * 64))
    with pytest.raises(NotFound, match="isn't in this vault") as caught:
        scene.load()
    assert caught.value.code == "base_gone"
    assert "who pushed the adapter" in caught.value.hint
    assert scene.leases == 0


def test_a_base_that_was_revoked(scene: Scene) -> None:
    scene.vault.revoke("version", f"default/{scene.base}@1", reason="poisoned")
    with pytest.raises(AccessDenied, match=f"the base of {scene.adapter}@1") as caught:
        scene.load()
    assert caught.value.code == "revoked"
    assert scene.leases == 0


@pytest.mark.parametrize(
    ("provenance", "why"),
    [
        (Provenance(), "nothing"),
        (Provenance(base="base"), "only 'base'"),
        (Provenance(base="base@1"), "only 'base@1'"),
        (Provenance(base="a base of ours", base_digest="sha256:" + "0" * 64), "only 'a base"),
        (Provenance(base_digest="sha256:" + "0" * 64), "nothing"),
    ],
)
def test_a_model_that_names_no_version(scene: Scene, provenance: Provenance, why: str) -> None:
    scene.push_adapter(provenance)
    with pytest.raises(InvalidRequest, match=why) as caught:
        scene.load()
    assert caught.value.code == "no_base"
    assert scene.leases == 0


def test_a_base_without_a_version(vault: Session) -> None:
    vault.create("empty")
    try:
        with pytest.raises(NotFound, match="empty has no version yet"):
            vault.based_on("empty")
    finally:
        vault.delete("empty")


@pytest.mark.parametrize("base", ["{}:prod", "{}@1", "default/{}:prod"])
def test_the_command_fills_in_the_digest(
    scene: Scene, capsys: pytest.CaptureFixture[str], base: str
) -> None:
    exact = scene.vault.based_on(f"{scene.base}@1")
    line = ("push", scene.folder, f"{scene.adapter}:prod", "--base", base.format(scene.base))
    assert call(capsys, *line).code == 0
    with scene.load() as pair:
        assert pair.base.name == f"{scene.base}@1"
        assert pair.adapter.name == f"{scene.adapter}@2"
        assert pair.adapter.manifest.provenance == exact


@pytest.mark.parametrize("base", ["bert", "meta-llama/Llama-3.1-8B", "a base of ours"])
def test_what_is_no_version_is_a_name_and_nothing_else(
    scene: Scene, capsys: pytest.CaptureFixture[str], base: str
) -> None:
    assert call(capsys, "push", scene.folder, scene.adapter, "--base", base).code == 0
    with scene.vault.load(scene.adapter, purpose="inference") as model:
        assert model.manifest.provenance == Provenance(base=base)


@pytest.mark.parametrize(
    ("base", "code"), [("{}@9", "no_version"), ("b:", "bad_reference"), ("x:y", "no_model")]
)
def test_a_base_that_cant_be_looked_up_stops_the_push(
    scene: Scene, capsys: pytest.CaptureFixture[str], base: str, code: str
) -> None:
    line = ("push", scene.folder, scene.adapter, "--base", base.format(scene.base), "--json")
    assert call(capsys, *line).error.code == code
    assert scene.vault.show(scene.adapter).summary.latest == 1
