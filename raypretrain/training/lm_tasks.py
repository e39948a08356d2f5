"""The tasks of lm-eval and of a user's own files, found by name and built."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from raypretrain.config import nearest
from raypretrain.errors import InputError
from raypretrain.training.lm_notes import first_line
from raypretrain.training.task_files import TaskFile, check_names

EXAMPLES_SEED = 1234
"""lm-eval's, of the examples that it draws for few shots."""


def load_tasks(
    names: Sequence[str], own: Mapping[str, TaskFile], folder: Path | None, few_shot: int | None
) -> Any:
    """What ``lm_eval.evaluate`` takes: the tasks with their data, and the groups.

    Args:
        names: of tasks, groups and tags, or patterns of them.
        own: what was read in ``folder``.
        few_shot: so many examples before each document; None leaves it to the task.

    Raises:
        InputError: a task is not known, cannot be built, would run what the model writes, or its data are not
            reached.
    """
    from lm_eval import utils
    from lm_eval.tasks import TaskManager

    _check_own(own)
    utils.env = _sandboxed(utils.env)
    others = not all(name in own and not own[name].is_group for name in names)  # to list them takes seconds
    manager = TaskManager(include_path=str(folder) if folder else None, include_defaults=others)
    objects: list[Any] = []
    matching = (found for wanted in names for found in _matching(wanted, manager.all_tasks))
    for name in dict.fromkeys(matching):
        objects += _load_task(manager, name, own.get(name))
    try:
        loaded = manager.load(objects)
    except ValueError as error:  # a task by itself and in a group
        raise InputError(str(error), where="--tasks") from None
    for name, task in loaded["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):
            raise InputError("would run what the model writes as a program", where=f"task '{name}'")
        _set_few_shot(task, few_shot)
    return loaded


def _check_own(own: Mapping[str, TaskFile]) -> None:
    import lm_eval.api.metrics  # noqa: F401  (fills the registries)
    from lm_eval.api.registry import AGGREGATION_REGISTRY, METRIC_REGISTRY
    from lm_eval.config.group import GroupConfig
    from lm_eval.config.task import TaskConfig

    keys = {field.name for config in (TaskConfig, GroupConfig) for field in fields(config)}
    for file in own.values():
        check_names(file, keys | {"class", "task_list"}, list(METRIC_REGISTRY), list(AGGREGATION_REGISTRY))


def _sandboxed(env: Any) -> Any:
    """The templates of task files can call whatever Python has; in Jinja's sandbox they cannot."""
    from jinja2.sandbox import SandboxedEnvironment

    boxed = SandboxedEnvironment(
        loader=env.loader, undefined=env.undefined, keep_trailing_newline=env.keep_trailing_newline
    )
    boxed.filters = env.filters
    return boxed


def _matching(name: str, known: list[str]) -> list[str]:
    found = [name] if name in known else fnmatch.filter(known, name)
    if not found:
        guess = nearest(name, known)
        fix = f"did you mean '{guess}'?" if guess else "'lm_eval ls tasks' lists them"
        raise InputError(f"there is no task '{name}'", where="--tasks", fix=fix)
    return found


def _load_task(manager: Any, name: str, file: TaskFile | None) -> list[Any]:
    """The task, the group, or the tasks of the tag of this name, with their data."""
    where = str(file.path) if file else f"task '{name}'"
    try:
        found = manager.load([name])
    except ConnectionError as error:
        raise InputError(
            f"its data are on the Hugging Face hub, which is not reached ({error})",
            where=where,
            fix="run it where there is a network, or give a task file with local data by --task-folder",
        ) from None
    except Exception as error:  # of any kind: what is wrong is the task's, or its data's
        raise InputError(f"cannot be used ({first_line(error)})", where=where) from error
    return [found["groups"][name]] if name in found.get("groups", {}) else list(found["tasks"].values())


def _set_few_shot(task: Any, few_shot: int | None) -> None:
    """As ``lm_eval.simple_evaluate`` does it: a task that says 0 keeps to it."""
    own = task.get_config("num_fewshot")
    if own is None or (few_shot is not None and own != 0):
        task.set_config(key="num_fewshot", value=few_shot or 0)
    task.set_fewshot_seed(seed=EXAMPLES_SEED)
