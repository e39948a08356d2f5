"""The folder of a run: what lies where, who may write to it, and whether it is the run that the recipe means."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from raypretrain.config import flatten, to_yaml, validate
from raypretrain.errors import RunError
from raypretrain.storage import check_writable, is_remote, sha256_file, write_atomic
from raypretrain.tokens.tokenizer import Tokenizer
from raypretrain.training import checkpoint
from raypretrain.training.changes import LENGTH, SAFE, among, refuse_changes
from raypretrain.training.fetching import KEPT, is_fetched
from raypretrain.training.length import run_length
from raypretrain.training.logs import FOLDER
from raypretrain.training.recipe import PretrainRecipe

_LOCK_ATTEMPTS = 4


class RunFolder:
    """``RUN/``: recipe.yaml, environment.json, corpus/, metrics.jsonl, evaluations.jsonl, checkpoints/, model/."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.yaml"
        self.environment = self.path / "environment.json"
        self.corpus = self.path / "corpus"
        self.manifest = self.corpus / "manifest.parquet"
        self.held_out = self.corpus / "held_out.parquet"
        self.mixture = self.corpus / "mixture.json"
        self.quarantine = self.corpus / "quarantine.jsonl"
        self.metrics = self.path / "metrics.jsonl"
        self.evaluations = self.path / "evaluations.jsonl"
        self.events = self.path / "events.jsonl"
        self.stacks = self.path / "stacks"
        self.logs = self.path / FOLDER
        self.sequence_losses = self.path / "sequence_losses.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.result = self.path / "result.json"
        self.ray = self.path / "ray"
        self.base = self.path / KEPT
        self.fetched = self.path / "base"
        self.parent = self.path / "parent.json"
        self.parent_weights = self.path / "parent.safetensors"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's file: ``tokenizer.json`` where there is one, else ``tokenizer.model``."""
        general = self.corpus / "tokenizer.json"
        return general if general.is_file() else self.corpus / "tokenizer.model"

    def read_recipe(self) -> PretrainRecipe:
        """The recipe as the run was started with.

        Raises:
            RunError: there is no run, or its recipe is damaged.
        """
        if not self.recipe.is_file():
            raise RunError(
                "is no run: it has no recipe.yaml", where=str(self.path), fix="give the folder of a run"
            )
        try:
            values = yaml.safe_load(self.recipe.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise RunError(f"cannot be read ({error})", where=str(self.recipe)) from None
        context = (
            {"base_config": json.loads(self.base.read_text("utf-8"))["config"]} if self.base.is_file() else {}
        )
        return validate(values, PretrainRecipe, folder=self.path, where=str(self.recipe), context=context)

    def begun(self) -> bool:
        """Whether anything was trained here, or forked from what was trained elsewhere."""
        made = self.metrics.is_file() or self.parent.is_file() or any(self.checkpoints.glob("step-*"))
        return self.recipe.is_file() and made

    def refuse_changes(self, recipe: PretrainRecipe) -> PretrainRecipe:
        """The recipe of a run that has begun, unless ``recipe`` is not one to go on with.

        Raises:
            RecipeError: it would change what is learned.
        """
        saved = self.read_recipe()
        refuse_changes(recipe, saved, self.path, *self.reached(saved))
        return saved

    def reached(self, recipe: PretrainRecipe) -> tuple[int, int]:
        """The last step that is in a checkpoint, and the model's parameters."""
        newest = next(iter(checkpoint.committed(self.checkpoints)), None)
        if newest is None or not self.tokenizer.is_file():
            return 0, 0
        vocabulary = Tokenizer.load(self.tokenizer).vocabulary
        shape = recipe.model.shape(vocabulary, recipe.sequences.length)
        return int(newest.name.removeprefix("step-")), shape.parameters

    def _follow(self, recipe: PretrainRecipe, saved: PretrainRecipe) -> None:
        """Write a safe change down; a run that is to be longer is no longer finished."""
        if recipe == saved:
            return
        done = self.read_result()
        if done and run_length(recipe, done["parameters"]).steps > done["steps"]:
            self.result.unlink()
        write_atomic(self.recipe, to_yaml(recipe))

    def open(self, recipe: PretrainRecipe) -> bool:
        """Make the folder, or go on in it; returns whether the run existed.

        Raises:
            RecipeError: the run was started with another recipe, and not only in what may change.
            RunError: the folder is no run's, and not empty.
        """
        if self.begun():
            self._follow(recipe, self.refuse_changes(recipe))
            return True
        self._refuse_foreign()
        if self.recipe.is_file():  # a start that failed binds nobody: neither its recipe nor its corpus
            made_before = (self.manifest, self.held_out, self.mixture, self.base)
            for made in (*made_before, *self.corpus.glob("tokenizer*")):
                made.unlink(missing_ok=True)
        for folder in (self.corpus, self.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.recipe, to_yaml(recipe))
        return False

    def _refuse_foreign(self) -> None:
        """Refuse a folder that holds anything that a start does not make, e.g. somebody's corpus."""
        ours = {
            ".lock",
            self.recipe.name,
            self.environment.name,
            self.events.name,
            self.stacks.name,
            self.logs.name,
            self.corpus.name,
            self.checkpoints.name,
            self.ray.name,
            self.base.name,
            f"{self.fetched.name}.partial",
        }
        if is_fetched(self.fetched):
            ours.add(self.fetched.name)
        made = {path.stem for path in (self.manifest, self.tokenizer, self.held_out, self.mixture)}
        made.add("tokenizer_config")
        foreign = [p.name for p in self.path.iterdir() if p.name not in ours] if self.path.is_dir() else []
        if self.corpus.is_dir():
            foreign += [f"corpus/{p.name}" for p in self.corpus.iterdir() if p.stem not in made]
        if foreign:
            raise RunError(
                f"the run's folder holds something else ('{min(foreign)}')",
                where=str(self.path),
                fix="give run.folder a new or an empty folder",
            )

    def write_environment(self, sizes: dict[str, Any]) -> None:
        """Versions and hardware of this start."""
        packages = ("raypretrain", "torch", "ray", "deepspeed", "pyarrow", "sentencepiece", "numpy")
        values = {
            "python": sys.version.split()[0],
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "packages": {name: version(name) for name in packages},
            "sizes": sizes,
        }
        write_atomic(self.environment, json.dumps(values, indent=1))

    def base_folder(self, base: str) -> Path:
        """Where the files of the base model are: its own folder, or what was fetched of one in a store."""
        return self.fetched if is_remote(base) else Path(base)

    def write_base(self, base: str, tokens: int, new: int) -> None:
        """Keep what the base model is: its config and the SHA-256 of its weights.

        Args:
            base: its folder, or its URL.
            tokens: of its own tokenizer.
            new: how many tokens the recipe adds to them.
        """
        folder = self.base_folder(base)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        hashes = {path.name: sha256_file(path) for path in sorted(folder.glob("*.safetensors"))}
        values = {"folder": base, "config": config, "sha256": hashes, "tokens": tokens, "new": new}
        write_atomic(self.base, json.dumps(values, indent=1))

    def read_result(self) -> dict[str, Any] | None:
        """What a finished run came to; None if it is not finished."""
        if not self.result.is_file():
            return None
        values: dict[str, Any] = json.loads(self.result.read_text(encoding="utf-8"))
        return values

    def lock(self) -> AbstractContextManager[None]:
        """Keep a second process from carrying out the same run; see :func:`locked`."""
        return locked(self.path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second process from carrying out the run in ``folder``.

    Raises:
        RunError: one already does.
        StorageError: the folder cannot be written to.
    """
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # The lock is the kernel's: it goes with the process, however that ends.
    with (folder / ".lock").open("w") as file:
        for attempt in reversed(range(_LOCK_ATTEMPTS)):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not attempt:
                    raise RunError("another process is carrying out this run", where=str(folder)) from None
                time.sleep(0.05)  # `raypretrain status` looks at the lock for a moment
        yield


def fingerprint_of(recipe: PretrainRecipe) -> str:
    """SHA-256 of what a recipe says about the science of the run: without all that may change on a resume.

    A key without a value says nothing, so that a run goes on with a later version that has more of them.
    """
    values = flatten(recipe.model_dump(mode="json"))
    science = {k: v for k, v in values.items() if v is not None and not among(k, SAFE + LENGTH)}
    return hashlib.sha256(json.dumps(science, sort_keys=True).encode()).hexdigest()
