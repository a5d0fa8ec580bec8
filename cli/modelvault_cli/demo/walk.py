"""The demo itself: what is done, in which order, and what must be seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from modelvault import wiring
from modelvault.errors import (
    AccessDenied,
    AuthenticationError,
    IntegrityError,
    ModelVaultError,
)
from modelvault_cli.demo import attacks, bert, search
from modelvault_cli.demo.stage import Stage, expect, refused
from modelvault_cli.demo.world import World
from modelvault_cli.output import size

if TYPE_CHECKING:
    from modelvault.client.session import Session
    from modelvault.loader.model import Model
    from modelvault.record import Entry

NAME, TAG = "minilm", "prod"
REFERENCE = f"{NAME}:{TAG}"
PURPOSE = "inference"
SENTENCES = ("A man is eating food.", "A man is eating a piece of bread.")
COSINE, TOLERANCE = 0.7553, 0.0005


class Walk:
    """All steps in one world. `entries` holds the audit trail once `run` is through."""

    def __init__(self, world: World, stage: Stage) -> None:
        self._world = world
        self._stage = stage
        self._root_key = Path()
        self.entries: tuple[Entry, ...] = ()

    def run(self) -> None:
        """Every step, in order. Raises Unexpected at the first that isn't as it should be."""
        step = self._stage.step
        step("make a vault; its root key lies outside its folder", self._init)
        with self._world.connect() as admin, attacks.overheard() as keys:
            step("encrypt a real model: all-MiniLM-L6-v2", lambda: self._push(admin))
            step("show what the vault tells of it", lambda: self._show(admin))
            token = admin.mint_token(sub="job-1", groups=["inference"])
            with self._world.connect(token) as job:
                step("load it as an allowed job; embed from its memory", lambda: self._embed(job))
                self._refusals(admin, job)
                self._tampering(admin, job)
                step("move the tag back properly; load", lambda: self._move_back(admin, job))
            step("search every file for plaintext and keys", lambda: self._search(keys))
            step("read the audit trail", lambda: self._audit(admin))

    def _init(self) -> str:
        made = wiring.init(self._world.home)
        self._root_key = Path(made.root.path or "")
        inside = self._root_key.is_relative_to(self._world.home)
        return expect(not inside, f"{made.home}, key in {self._root_key}")

    def _push(self, vault: Session) -> str:
        vault.create(NAME)
        pushed = vault.push(self._world.model, REFERENCE)
        found = pushed.found
        return (
            f"{NAME}@{pushed.version}: {len(found.paths)} files, {size(found.size)}, "
            f"{', '.join(found.formats)}"
        )

    def _show(self, vault: Session) -> str:
        summary = vault.show(REFERENCE).summary
        (tag,) = summary.tags
        told = (
            f"{summary.classification}, owner {summary.owner}, {tag.tag} is version {tag.version}"
        )
        return expect((tag.tag, tag.version) == (TAG, 1), told)

    def _embed(self, job: Session) -> str:
        with job.load(REFERENCE, purpose=PURPOSE) as model:
            cosine = similarity(model)
        told = f"{job.whoami().id}: cos({SENTENCES[0]!r}, {SENTENCES[1]!r}) = {cosine:.4f}"
        return expect(abs(cosine - COSINE) <= TOLERANCE, told)

    def _refusals(self, admin: Session, job: Session) -> None:
        step = self._stage.step
        step(
            "refuse the same job another purpose",
            lambda: refused(AccessDenied, lambda: job.load(REFERENCE, purpose="fine-tuning")),
        )
        stranger = admin.mint_token(sub="stranger", groups=[])
        step("refuse a stranger", lambda: self._refused_to(stranger, ModelVaultError))
        with attacks.hours_ago():
            expired = admin.mint_token(sub="job-1", groups=["inference"])
        step("refuse an expired token", lambda: self._refused_to(expired, AuthenticationError))

    def _refused_to(self, token: str, error: type[ModelVaultError]) -> str:
        def load() -> None:
            with self._world.connect(token) as vault:
                vault.load(REFERENCE, purpose=PURPOSE)

        return refused(error, load)

    def _tampering(self, admin: Session, job: Session) -> None:
        step = self._stage.step
        step("flip one bit of the ciphertext: refused", lambda: self._flip(job))
        old = attacks.TagRow(self._world.home / "ledger.db", NAME, TAG)
        step("push a second version; the tag moves to it", lambda: self._second(admin, job))
        step("put the old tag record back: refused", lambda: self._roll_back(job, old))

    def _flip(self, job: Session) -> str:
        objects = (self._world.home / "objects").rglob("*")
        largest = max((path for path in objects if path.is_file()), key=lambda p: p.stat().st_size)
        place = largest.stat().st_size // 2
        attacks.flip(largest, place)
        try:
            told = refused(IntegrityError, lambda: _read_all(job))
        finally:
            attacks.flip(largest, place)
        _read_all(job)
        return f"{told}; flipped back, it loads again"

    def _second(self, admin: Session, job: Session) -> str:
        pushed = admin.push(self._world.model, REFERENCE, labels={"note": "the second"})
        with job.load(REFERENCE, purpose=PURPOSE) as model:
            return expect(model.manifest.version == 2, f"{REFERENCE} is {NAME}@{pushed.version}")

    def _roll_back(self, job: Session, old: attacks.TagRow) -> str:
        new = attacks.TagRow(self._world.home / "ledger.db", NAME, TAG)
        old.put_back()
        try:
            return refused(IntegrityError, lambda: job.load(REFERENCE, purpose=PURPOSE))
        finally:
            new.put_back()

    def _move_back(self, admin: Session, job: Session) -> str:
        admin.tag(f"{NAME}@1", TAG)
        with job.load(REFERENCE, purpose=PURPOSE) as model:
            cosine = similarity(model)
            version = model.manifest.version
        close = abs(cosine - COSINE) <= TOLERANCE
        return expect(version == 1 and close, f"{REFERENCE} is {NAME}@{version}, {cosine:.4f}")

    def _search(self, heard: set[bytes]) -> str:
        plain = (path for path in sorted(self._world.model.rglob("*")) if path.is_file())
        windows = search.Windows(path.read_bytes() for path in plain)
        keys = [self._root_key.read_bytes(), *sorted(heard)]
        home = self._world.home
        plants = {home / "planted-window": windows.sample(), home / "planted-key": keys[0]}
        for path, secret in plants.items():
            path.write_bytes(b"some bytes before" + secret)
        found = {leak.path for leak in search.search(home, windows, keys)}
        for path in plants:
            path.unlink()
        leaks = found - set(plants)
        files = [path for path in home.rglob("*") if path.is_file()]
        told = (
            f"{len(windows):,} windows of 1 KiB and {len(keys)} keys in "
            f"{size(sum(path.stat().st_size for path in files))}: "
        )
        expect(set(plants) <= found, told + "the planted window and key were not found")
        return expect(
            not leaks, told + (", ".join(map(str, leaks)) or "none; the planted two were found")
        )

    def _audit(self, vault: Session) -> str:
        self.entries = vault.entries(limit=1000).entries
        denied = sum(entry.outcome == "denied" for entry in self.entries)
        return expect(denied > 0, f"{len(self.entries)} entries, {denied} of them refusals")


def similarity(model: Model) -> float:
    """Of the two sentences; every view of the model is gone when this returns."""
    with model.read_bytes("tokenizer.json") as view:
        tokenizer = Tokenizer.from_str(str(view, "utf-8"))
    tokenizer.no_padding()
    weights = model.tensors()
    one, other = (bert.embed(weights, tokenizer.encode(text).ids) for text in SENTENCES)
    return bert.cosine(np.copy(one), np.copy(other))


def _read_all(vault: Session) -> None:
    with vault.load(REFERENCE, purpose=PURPOSE) as model:
        for path in model.files:
            model.read_bytes(path).release()
