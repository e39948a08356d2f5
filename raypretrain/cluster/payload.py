"""What is sent to a cluster: a recipe as resolved, the command that carries it out, and what the job is called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BeforeValidator

from raypretrain.config import Config, keys_of, load_recipe, resolve_path, to_yaml
from raypretrain.finetuning.recipe import FinetuneRecipe
from raypretrain.sweeps.recipe import SweepRecipe
from raypretrain.training.recipe import PretrainRecipe

STOP_SECONDS = 600
"""What a job that is asked to stop has for its last checkpoint; Ray would give it 3 s."""

RECIPE = "recipe.yaml"
RUN, COMMAND, NAME = "raypretrain_run", "raypretrain_command", "job_name"
"""The labels of a job: its run's folder, what is carried out, and the run's name, as Ray's dashboard shows it."""

_LOCATION = BeforeValidator(resolve_path)


@dataclass(frozen=True)
class Payload:
    """A run that is to be carried out elsewhere.

    Args:
        recipe: checked, with its overrides.
        command: ``pretrain``, or ``search`` for tasks, whose trials go where there is room, and for searches of
            pretraining.
    """

    recipe: PretrainRecipe | FinetuneRecipe
    command: str

    @property
    def folder(self) -> str:
        """The run's, as the cluster's nodes see it."""
        return self.recipe.run.folder

    @property
    def name(self) -> str:
        """The run's name: the last part of its folder, of letters that a job's name may have."""
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(self.folder).name).strip(".-") or "run"

    @property
    def text(self) -> str:
        """The file that is sent. The cluster that a job runs on is its own, whatever address the recipe had."""
        recipe = self.recipe
        if isinstance(recipe, PretrainRecipe):
            recipe = recipe.model_copy(
                update={"compute": recipe.compute.model_copy(update={"address": None})}
            )
        return to_yaml(recipe)

    @property
    def entrypoint(self) -> str:
        """What the job runs, in the folder with the recipe: with the Python that the head's path has."""
        return f"python -m raypretrain {self.command} {RECIPE}"

    @property
    def labels(self) -> dict[str, str]:
        """What tells the job from others."""
        return {NAME: self.name, RUN: self.folder, COMMAND: self.command}

    def runtime_env(self, folder: Path) -> dict[str, Any]:
        """The job's runtime environment: it is shown in the clear to whoever may look, so it holds no secret.

        Args:
            folder: with the recipe; it is packed and sent.
        """
        return {"working_dir": str(folder), "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}}


def pack(path: Path, overrides: Iterable[str] = ()) -> Payload:
    """Read and check the recipe at ``path``: one with tasks is of fine-tuning, any other of pretraining.

    Raises:
        RecipeError: it is wrong.
    """
    keys = keys_of(path)
    if "tasks" in keys:
        return Payload(load_recipe(path, FinetuneRecipe, overrides), "search")
    if "search" in keys:
        return Payload(load_recipe(path, SweepRecipe, overrides), "search")
    return Payload(load_recipe(path, PretrainRecipe, overrides), "pretrain")


def paths_of(config: Config, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The key and the value of every path and URL in a recipe."""
    for name, field in type(config).model_fields.items():
        annotations = (field.annotation, *get_args(field.annotation))
        marks = [*field.metadata, *(mark for one in annotations for mark in get_args(one)[1:])]
        yield from _paths_in(getattr(config, name), prefix + (field.alias or name), _LOCATION in marks)


def _paths_in(value: Any, key: str, is_path: bool) -> Iterator[tuple[str, str]]:
    if isinstance(value, Config):
        yield from paths_of(value, f"{key}.")
    elif isinstance(value, list | tuple):
        for i, entry in enumerate(value):
            yield from _paths_in(entry, f"{key}.{i}", is_path)
    elif isinstance(value, dict):
        for name, entry in value.items():
            yield from _paths_in(entry, f"{key}.{name}", is_path)
    elif isinstance(value, str) and value and is_path:
        yield key, value
