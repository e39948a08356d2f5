"""The folder of a run: what lies where, who may write to it, and whether it is the run that the recipe means."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from raypretrain.config import flatten, to_yaml, validate
from raypretrain.errors import RunError
from raypretrain.storage import check_writable, write_atomic
from raypretrain.training.recipe import PretrainRecipe, refuse_changes


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
        self.sequence_losses = self.path / "sequence_losses.jsonl"
        self.events = self.path / "events.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.result = self.path / "result.json"
        self.ray = self.path / "ray"

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
        return validate(values, PretrainRecipe, folder=self.path, where=str(self.recipe))

    def begun(self) -> bool:
        """Whether anything was trained here."""
        return self.recipe.is_file() and (self.metrics.is_file() or any(self.checkpoints.glob("step-*")))

    def open(self, recipe: PretrainRecipe) -> bool:
        """Make the folder, or go on in it; returns whether the run existed.

        Raises:
            RecipeError: the run was started with another recipe.
            RunError: the folder is no run's, and not empty.
        """
        if self.begun():
            refuse_changes(recipe, self.read_recipe(), self.path)
            return True
        self._refuse_foreign()
        if self.recipe.is_file():  # a start that failed binds nobody: neither its recipe nor its corpus
            for made in (self.manifest, *self.corpus.glob("tokenizer*"), self.held_out, self.mixture):
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
            self.corpus.name,
            self.checkpoints.name,
            self.ray.name,
        }
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

    def read_result(self) -> dict[str, Any] | None:
        """What a finished run came to; None if it is not finished."""
        if not self.result.is_file():
            return None
        values: dict[str, Any] = json.loads(self.result.read_text(encoding="utf-8"))
        return values

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second process from carrying out the same run.

        Raises:
            RunError: one already does.
            StorageError: the folder cannot be written to.
        """
        check_writable(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        # The lock is the kernel's: it goes with the process, however that ends.
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError("another process is carrying out this run", where=str(self.path)) from None
            yield


def fingerprint_of(recipe: PretrainRecipe) -> str:
    """SHA-256 of what a recipe says about the science of the run: all but where and with what it is computed."""
    computing: Any = {
        "compute": True,
        "run": {"folder"},
        "corpus": {"on_change", "tokenized", "tokenized_endpoint_url"},
        "training": {"guard"},
    }
    values = flatten(recipe.model_dump(mode="json", exclude=computing))
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
