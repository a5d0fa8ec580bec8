"""Each fuzz target on its corpus and on some hundred mutations of it."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

from fuzz.harness import mutations, only_our_errors
from modelvault.errors import InvalidRequest

TARGETS = sorted(Path(__file__).parent.glob("fuzz_*.py"))
ROUNDS = int(os.environ.get("MODELVAULT_FUZZ_ROUNDS", "300"))


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"fuzz_target_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", TARGETS, ids=lambda path: path.stem.removeprefix("fuzz_"))
def test_only_our_errors_escape(path: Path) -> None:
    target = load(path)
    assert target.SEEDS
    for data in [*target.SEEDS, *mutations(target.SEEDS, ROUNDS)]:
        try:
            target.one_input(data)
        except BaseException as error:
            error.add_note(f"input: {data[:2000].hex()}")
            raise


def test_the_targets_are_found() -> None:
    names = {path.stem for path in TARGETS}
    assert names >= {"fuzz_manifest", "fuzz_records", "fuzz_floe_reader", "fuzz_reference"}


def test_mutations_are_the_same_each_time_and_differ_from_the_corpus() -> None:
    corpus = [b"abcdef" * 10, b"0123456789"]
    once = list(mutations(corpus, 50))
    assert once == list(mutations(corpus, 50))
    assert len(set(once) - set(corpus)) > 40


@pytest.mark.parametrize("error", [ValueError("x"), InvalidRequest("bad", "two\nlines")])
def test_what_isnt_a_plain_error_of_ours_is_a_finding(error: Exception) -> None:
    with pytest.raises((ValueError, AssertionError)), only_our_errors():
        raise error
