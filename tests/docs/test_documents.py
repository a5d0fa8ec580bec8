"""The documents say what is: help texts, links, names of tests, code blocks."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

from modelvault_cli.demo.world import model_folder
from modelvault_policies import files
from support import cli_reference

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_resolve(page: Path) -> None:
    broken = []
    for target in LINK.findall(page.read_text("utf-8")):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


def test_every_decision_is_in_the_table() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = re.findall(r"^\| \[(\d+)\]\(adr/(\d+)-[^)]*\) \|", page, re.MULTILINE)
    numbers = [int(file) for _, file in rows]
    assert [int(shown) for shown, _ in rows] == numbers
    decided = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert numbers == [int(path.name.partition("-")[0]) for path in decided]


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_purposes_are_shipped_ones(page: Path) -> None:
    named = set(re.findall(r"--purpose ([a-z-]+)", page.read_text("utf-8")))
    assert named <= set(files.data()["purposes"])


def test_the_readme_names_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    readme = (ROOT / "README.md").read_text("utf-8")
    told = re.search(r"^Extras: (.+)\.$", readme, re.MULTILINE)
    assert told is not None
    assert set(re.findall(r"`(\w+)`", told[1])) == set(project["optional-dependencies"])


def test_the_readmes_model_is_there() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    told = re.search(r"^    cp -r \.venv/(\S+) minilm$", readme, re.MULTILINE)
    assert told is not None
    (folder,) = Path(sys.prefix).glob(told[1])
    assert folder == model_folder()


def test_cli_page_is_what_the_program_prints() -> None:
    page = cli_reference.PAGE.read_text("utf-8")
    assert page == cli_reference.filled(page), "run `make docs-write`"


def test_every_exit_code_is_told_of() -> None:
    from modelvault_cli import main

    page = cli_reference.PAGE.read_text("utf-8")
    rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE))
    codes = {*main.EXIT_CODES.values(), main.EXIT_NO, main.EXIT_INTERNAL}
    codes |= {main.EXIT_INTERRUPTED, main.EXIT_BROKEN_PIPE, 0}
    assert {int(code) for code in rows} == codes
    for family, code in main.EXIT_CODES.items():
        assert family in rows[str(code)]


def threats() -> list[tuple[str, str, str, list[str]]]:
    page = (ROOT / "docs" / "threat-model.md").read_text("utf-8")
    rows = re.findall(r"^\| (T\d+) \| (.+?) \| (.+?) \| (.+?) \|$", page, re.MULTILINE)
    return [
        (no, attack, defence, re.findall(r"`([^`]+)`", told)) for no, attack, defence, told in rows
    ]


def test_threats_are_numbered_without_gaps() -> None:
    numbers = [number for number, *_ in threats()]
    assert numbers
    assert numbers == [f"T{n}" for n in range(1, len(numbers) + 1)]


@pytest.mark.parametrize(("number", "tests"), [(no, told) for no, _, _, told in threats()])
def test_every_threat_names_tests_that_exist(number: str, tests: list[str]) -> None:
    assert tests, f"{number} names no test"
    for test in tests:
        path, _, name = test.partition("::")
        tree = ast.parse((ROOT / "tests" / path).read_text("utf-8"))
        functions = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
        assert name in functions, f"{number}: {test}"
