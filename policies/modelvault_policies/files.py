"""Reads the files of this package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def modules() -> dict[str, str]:
    """Rego text by path within the bundle (`modelvault/authz/authz.rego`), tests left out."""
    return {path: text for path, text in sources().items() if not path.endswith("_test.rego")}


def sources() -> dict[str, str]:
    """Rego text by path, tests too: what `opa test` runs."""
    return _files("modelvault", ".rego")


def data_text() -> str:
    """The shipped data.json as it stands: what `init` gives an admin to start from."""
    return (HERE / "modelvault" / "data.json").read_text(encoding="utf-8")


def data() -> dict[str, Any]:
    """The shipped data.json's content."""
    return _object(data_text())


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema `name`: `rules` (of data.json) or `input`."""
    return _object((HERE / "schemas" / f"{name}.json").read_text(encoding="utf-8"))


def capabilities_text() -> str:
    """OPA's capabilities file: the builtins that policies may use."""
    return (HERE / "capabilities.json").read_text(encoding="utf-8")


def hcvault_policy(role: str, mount: str) -> str:
    """HashiCorp Vault's ACL policy of a role (broker, steward, destroyer, auditor), for a mount."""
    text = (HERE / "hcvault" / f"{role}.hcl").read_text(encoding="utf-8")
    return text.replace("MOUNT/", f"{mount}/").replace('"MOUNT"', f'"{mount}"')


def cases() -> dict[str, str]:
    """The shipped decision tables: JSON text by path (`cases/personas.json`)."""
    return _files("cases", ".json")


def _files(folder: str, ending: str) -> dict[str, str]:
    return {
        path.relative_to(HERE).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted((HERE / folder).rglob(f"*{ending}"))
    }


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise TypeError("a shipped file isn't a JSON object")
    return value
