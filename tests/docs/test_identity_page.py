"""docs/identity.md: its examples are what the program reads."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from modelvault import settings
from modelvault.identity import presets

PAGE = (Path(__file__).parents[2] / "docs" / "identity.md").read_text("utf-8")
ISSUERS, PROFILES = re.findall(r"```toml\n(.*?)```", PAGE, re.S)


def test_issuers() -> None:
    found = presets.read(tomllib.loads(ISSUERS)["issuers"])
    assert [one.issuer.name for one in found] == ["prod", "gh", "gl", "idp"]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, re.M))
    for kind, one in zip(("kubernetes", "github", "gitlab"), found, strict=False):
        for derived in (*one.issuer.groups, *one.issuer.subjects):
            start = f"`{one.issuer.name}:{derived.text.partition('{')[0]}"
            assert start in rows[kind]


def test_profiles(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(PROFILES)
    for name in ("pod", "gitlab", "cloud", "me"):
        env = {"MODELVAULT_CONFIG": str(path), "HOME": str(tmp_path)}
        told = settings.read(env, profile=name)
        assert told.token_file or told.token_variable or told.token_command or told.login


def test_the_numbers_are_the_programs() -> None:
    for number in (f"({presets.KeySource().refresh_s})", f"({presets.KeySource().unknown_s})"):
        assert number in PAGE
    assert presets.KeySource().stale_s == 6 * 3600
