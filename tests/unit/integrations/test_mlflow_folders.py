"""How MLflow's folders are versions."""

from __future__ import annotations

import pytest

from modelvault.integrations.mlflow_folders import Folder
from modelvault.reference import Reference

PLACES = [
    ("1/abc/artifacts", "1/abc/artifacts", ""),
    ("1/abc/artifacts/model/sub", "1/abc/artifacts", "model/sub"),
    ("1/models/m-5/artifacts", "1/models/m-5/artifacts", ""),
    ("1/abc/artifacts/artifacts", "1/abc/artifacts", "artifacts"),
    ("somewhere/else", "somewhere/else", ""),
    ("", "", ""),
]


@pytest.mark.parametrize(("path", "root", "inside"), PLACES)
def test_where_mlflow_says(path: str, root: str, inside: str) -> None:
    folder = Folder.at("churn", path)
    assert (folder.root, folder.inside) == (root, inside)


@pytest.mark.parametrize(
    ("path", "logged", "below"),
    [
        ("1/abc/artifacts", "", ""),
        ("1/abc/artifacts", "model", "model"),
        ("1/abc/artifacts/model", "", "model"),
        ("1/abc/artifacts/model", "sub", "model/sub"),
    ],
)
def test_labels(path: str, logged: str, below: str) -> None:
    assert Folder.at("churn", path).labels(logged) == {
        "mlflow.folder": "1/abc/artifacts",
        "mlflow.path": below,
    }


@pytest.mark.parametrize(
    "path", ["1/abc/artifacts", "", "x" * 200, "ünï/artifacts", "-odd/artifacts", "a b/artifacts"]
)
def test_every_folder_has_a_tag_that_is_one(path: str) -> None:
    reference = Folder.at("churn", path).tagged("0a1b2c3d")
    assert Reference.parse(reference).tag is not None


def test_readable_where_it_can_be() -> None:
    assert Folder.at("churn", "1/abc/artifacts/x").tagged("0a") == "churn:1.abc.0a"
