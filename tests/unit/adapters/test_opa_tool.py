"""The `opa` command's second opinion."""

from __future__ import annotations

import stat

import pytest

from modelvault.adapters import opa_tool
from modelvault.adapters.opa_tool import OpaServer, OpaTool, locate
from modelvault.errors import Unavailable
from modelvault.policy import shipped
from modelvault_policies import files
from support.opa import opa

SOURCES = files.sources() | {"modelvault/data.json": files.data_text()}
LIMITS = "modelvault/authz/limits.rego"


def changed(old, new):
    text = SOURCES[LIMITS]
    assert old in text
    return SOURCES | {LIMITS: text.replace(old, new)}


def added(rules):
    return SOURCES | {LIMITS: SOURCES[LIMITS] + rules}


def test_the_shipped_policies_are_formatted_strict_tested_and_covered():
    assert OpaTool(opa()).review(SOURCES, list(files.modules())) == []


@pytest.mark.parametrize(
    ("sources", "code", "file", "word"),
    [
        (added("\n_x   := 3\n"), "not_formatted", LIMITS, "opa fmt"),
        (added("\n_x := time.now_ns()\n"), "opa_check", LIMITS, "time.now_ns"),
        (added("\n_x if input.resource.ownr\n"), "opa_check", LIMITS, "ownr"),
        (added("\n_x if {\n\ty := 1\n}\n"), "opa_check", LIMITS, "y"),
        (added("\n_x if (\n"), "opa_check", LIMITS, ""),
        (changed("values == {true}", "values == {false}"), "opa_test",
         "modelvault/authz/limits_test.rego", "test_pickles"),
        (added('\n_x if input.resource.owner == "a"\n'), "not_covered", LIMITS, "no test"),
        (SOURCES | {"modelvault/authz/new.rego": "package modelvault.authz\n\n_n := 1\n"},
         "not_covered", "modelvault/authz/new.rego", "no test"),
    ],
)  # fmt: skip
def test_each_fault_is_found_in_its_file(sources, code, file, word):
    covered = [path for path in sources if path.endswith(".rego") and "_test" not in path]
    found = OpaTool(opa()).review(sources, covered)
    assert (code, file) in {(one.code, one.file) for one in found}
    assert any(word in one.text for one in found if one.code == code)


def script(tmp_path, text):
    path = tmp_path / "opa"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_it_is_found_on_the_path(tmp_path, monkeypatch):
    path = script(tmp_path, "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert locate() == path
    path.unlink()
    assert locate() is None


@pytest.mark.parametrize(
    "text",
    [
        "exec /bin/sleep 5",
        'case "$1" in check) echo nonsense >&2; exit 1;; esac',
        'case "$1" in test) echo nonsense;; esac',
        'case "$1" in test) echo "{}";; esac',
    ],
)
def test_an_opa_that_hangs_or_talks_nonsense_is_reported(tmp_path, monkeypatch, text):
    monkeypatch.setattr(opa_tool, "TIMEOUT_S", 0.5)
    with pytest.raises(Unavailable) as caught:
        OpaTool(script(tmp_path, text)).review({}, [])
    assert caught.value.code == "opa_failed"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('case "$1" in check) echo "{}" >&2; exit 1;; esac', "opa_check"),
        ('case "$1" in test) exit 1;; esac', "opa_test"),
    ],
)
def test_an_opa_that_fails_without_a_word_is_a_finding(tmp_path, text, code):
    (found,) = OpaTool(script(tmp_path, text)).review({}, [])
    assert (found.file, found.line, found.code) == ("", 0, code)


def test_a_missing_opa_is_reported(tmp_path):
    with pytest.raises(Unavailable):
        OpaTool(tmp_path / "none").review({}, [])


def test_a_server_that_doesnt_come_up_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(opa_tool, "sleep", lambda _: None)
    with (
        pytest.raises(Unavailable),
        OpaServer(script(tmp_path, "exec /bin/sleep 5"), shipped.bundle()),
    ):
        pass


def test_a_machine_that_is_read_only_is_told(monkeypatch):
    def read_only(*_args, **_kw):
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(opa_tool.tempfile, "TemporaryDirectory", read_only)
    with pytest.raises(Unavailable) as caught:
        OpaTool(opa()).review(SOURCES, list(files.modules()))
    assert caught.value.code == "cant_write"
    assert "TMPDIR" in caught.value.hint
