"""`modelvault policy diff` against the published policies of a home."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.command import call
from support.homes import isolated


@pytest.fixture
def home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Path:
    made = isolated(tmp_path, monkeypatch)
    assert call(capsys, "init").code == 0
    return made


def edit(home: Path, role: str, **limits: object) -> None:
    path = home / "policy" / "data.json"
    data = json.loads(path.read_text())
    data["roles"][role].update(limits)
    path.write_text(json.dumps(data, indent=2))


def test_nothing_was_edited(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = call(capsys, "policy", "diff")
    assert (told.code, told.out.strip()) == (0, "no difference")


def test_a_role_that_may_more(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(home, "auditor", actions=["list", "show", "pull", "explain", "read_leases", "read_audit"])
    told = call(capsys, "--json", "policy", "diff")
    assert told.code == 1
    document = told.document("policy diff")
    assert [change.place for change in document.data] == ["/roles/auditor/actions"]
    wider = [change for change in document.decisions if change.widens]
    assert wider
    assert any("local:auditors pull" in change.name for change in wider)
    text = call(capsys, "policy", "diff")
    assert text.code == 1
    assert "WIDER" in text.out


@pytest.mark.parametrize(
    ("more", "kind", "told"),
    [
        (1, "looser", "WIDER: allowed as before, an obligation is looser or gone"),
        (-1, "stricter", "narrower: allowed as before, an obligation is stricter or new"),
    ],
)
def test_a_summary_comes_first(
    home: Path, capsys: pytest.CaptureFixture[str], more: int, kind: str, told: str
) -> None:
    """One number that was edited: how much it changes is told before each change is."""
    path = home / "policy" / "data.json"
    data = json.loads(path.read_text())
    data["limits"]["max_concurrent_leases"] += more
    path.write_text(json.dumps(data))
    document = call(capsys, "--json", "policy", "diff").document("policy diff")
    count = len(document.decisions)
    assert {change.kind for change in document.decisions} == {kind}
    assert call(capsys, "policy", "diff").out.splitlines()[:4] == [
        "files that differ: data.json (1 place)",
        f"decisions that differ: {count}",
        f"  {count} {told}",
        "",
    ]


def test_what_is_new_has_nothing_before(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = home / "policy" / "data.json"
    data = json.loads(path.read_text())
    data["purposes"]["training"] = {"actions": ["load"], "classifications": ["*"]}
    path.write_text(json.dumps(data))
    out = call(capsys, "policy", "diff").out
    assert "data.json /purposes/training\n  - nothing\n  + {" in out
    assert "None" not in out


def test_a_role_that_may_less(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(home, "auditor", actions=["list", "show"])
    told = call(capsys, "--json", "policy", "diff")
    assert told.code == 0
    document = told.document("policy diff")
    assert document.decisions
    assert not any(change.widens for change in document.decisions)
