"""Policies in a folder: an admin's working copy, and what was published from it.

policy/data.json, policy/site/*.rego          the working copy: changes nothing by itself
policy/published/<64 hex digits>/bundle.json  each published bundle, whole and never changed
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

from modelvault import canonical
from modelvault.errors import Conflict, InvalidRequest, Unavailable
from modelvault.policy import bundle as bundles
from modelvault.policy.bundle import Bundle
from modelvault_policies import files


class PolicyFolder:
    """The `policy/` folder of a home. Errors: InvalidRequest, Unavailable."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def start(self) -> None:
        """Make the working copy from the shipped data, unless there is one."""
        with _reported(self.root):
            (self.root / "site").mkdir(parents=True, exist_ok=True, mode=0o700)
            with contextlib.suppress(FileExistsError):
                _write_new(self.root / "data.json", files.data_text().encode())

    @classmethod
    def write(cls, root: Path, data: str, site: Mapping[str, str]) -> None:
        """A new working copy of `data` and site rules. Raises Conflict (`folder_exists`)."""
        with _reported(root):
            try:
                root.mkdir(parents=True, mode=0o700)
            except FileExistsError:
                raise Conflict(
                    "folder_exists", f"{root} exists already", "name a folder that isn't there yet"
                ) from None
            _write_new(root / "data.json", data.encode())
            for name, text in site.items():
                path = root / "site" / name
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                _write_new(path, text.encode())

    def data_text(self, errors: str = "strict") -> str:
        """data.json of the working copy, as it stands; `errors` as in `bytes.decode`.

        Raises InvalidRequest (`bad_policy_folder`).
        """
        with _reported(self.root):
            return (self.root / "data.json").read_text("utf-8", errors)

    def cases(self) -> dict[str, str]:
        """The admin's own decision tables: text by path (`cases/mine.json`)."""
        return self._texts("cases", ".json")

    def working(self) -> Bundle:
        """The shipped modules with this folder's data and site rules.

        Raises InvalidRequest (`bad_policy`) for data.json that isn't a strict JSON object.
        """
        data = bundles.parse_data(self.data_text().encode())
        site = {
            path.removeprefix("site/"): text
            for path, text in self._texts("site", ".rego").items()
            if not path.endswith("_test.rego")
        }
        return bundles.combine(files.modules(), data, site)

    def sources(self) -> dict[str, str]:
        """All that `opa` needs to look at the working copy, tests too: text by path."""
        site = self._texts("site", ".rego")
        return files.sources() | site | {"modelvault/data.json": self.data_text()}

    def publish(self, bundle: Bundle) -> str:
        """Keep `bundle` under its revision, which is returned. Idempotent; decides nothing yet.

        Raises InvalidRequest (`bad_policy`) for data that its schema refuses: a limit under a
        mistyped name would be no limit.
        """
        _check(bundle)
        revision = bundle.revision
        place = self._place(revision)
        with _reported(self.root):
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            part = place.with_name(f".{secrets.token_hex(8)}")
            try:
                _write_new(part, canonical.encode(bundle))
                part.replace(place)
            finally:
                part.unlink(missing_ok=True)
        return revision

    def published(self, revision: str) -> Bundle:
        """The bundle of that revision, verified.

        Raises Unavailable (`policy_unavailable`) when it isn't here, or isn't what it was.
        """
        try:
            content = self._place(revision).read_bytes()
            bundle = canonical.decode(
                content, Bundle, limit=bundles.MAX_BYTES, what="policy", error=InvalidRequest
            )
        except (OSError, InvalidRequest):
            raise self._unreadable(revision) from None
        return bundle.at(revision)

    def revisions(self) -> tuple[str, ...]:
        """Revisions kept here, the one published last first."""
        with _reported(self.root):
            found = sorted(
                (self.root / "published").glob("*/bundle.json"),
                key=lambda path: path.stat().st_mtime_ns,
                reverse=True,
            )
        return tuple(f"sha256:{path.parent.name}" for path in found)

    def _texts(self, below: str, ending: str) -> dict[str, str]:
        with _reported(self.root):
            return {
                path.relative_to(self.root).as_posix(): path.read_text("utf-8")
                for path in sorted((self.root / below).rglob(f"*{ending}"))
            }

    def _place(self, revision: str) -> Path:
        name = revision.removeprefix("sha256:")
        if len(name) != 64 or set(name) - set("0123456789abcdef"):
            # Not a NotFound: a job's renewal would take that for a no, and wipe.
            raise self._unreadable(revision)
        return self.root / "published" / name / "bundle.json"

    def _unreadable(self, revision: str) -> Unavailable:
        return Unavailable(
            "policy_unavailable",
            f"the policies in force ({revision[:19]}…) can't be read",
            f"publish again with `modelvault policy publish`, or restore {self.root}",
        )


def _check(bundle: Bundle) -> None:
    from modelvault.policy.check import check_publishable  # with jsonschema, which few need

    check_publishable(json.dumps(bundle.data), bundle.modules.values())


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _reported(root: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeDecodeError) as failure:
        why = failure.strerror if isinstance(failure, OSError) else "not UTF-8 text"
        raise InvalidRequest(
            "bad_policy_folder",
            f"policy folder {root}: {why}",
            "name a folder with a data.json, as `modelvault policy fetch` writes one; of a home's "
            "own tells `modelvault doctor`",
        ) from None
