"""A released model's scores on lm-eval's tasks, its own and those of a user's files. Only here is lm-eval imported."""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from raypretrain.errors import InputError
from raypretrain.models.config import read_json_object, read_shape
from raypretrain.models.loading import weight_paths
from raypretrain.storage import check_writable, write_atomic
from raypretrain.training.lm_notes import first_line, noticed
from raypretrain.training.lm_tasks import load_tasks
from raypretrain.training.release import released
from raypretrain.training.task_files import read_task_folder

_NEEDED = ("lm_eval", "accelerate")
_CONTINUES = ("ForCausalLM", "LMHeadModel")
"""How the names of architectures end that continue a text."""
_SEED, _OTHER_SEED = 0, 1234  # lm-eval's: of ``random``; of NumPy and torch


@dataclass(frozen=True)
class Settings:
    """How to evaluate.

    Args:
        folder: of task files (``.yaml``) of the user's own, which come before lm-eval's of the same name.
        allow_code: whether those may have Python run.
        limit: so many documents of each task; None takes all.
        few_shot: so many examples before each document; None leaves it to the task.
        batch: so many requests at a time.
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    folder: Path | None = None
    allow_code: bool = False
    limit: int | None = None
    few_shot: int | None = None
    batch: int = 8
    device: str = "auto"


def evaluate_model(
    model: Path,
    tasks: Sequence[str],
    settings: Settings,
    output: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Score ``model`` by lm-eval.

    Where all of ``tasks`` are files with local data, nothing is fetched: Hugging Face's libraries are told to
    stay offline. They read that when they are imported, so it holds from then on, in the whole process.

    Args:
        model: a released model's folder, or a run's.
        tasks: names of tasks, groups and tags, or patterns of them.
        output: a JSON file to write the result to.

    Returns:
        ``scores``: for each metric of each task ``task``, ``metric``, ``filter``, ``value``, ``stderr``, ``n``
        (documents) out of ``of``, ``few_shot``, ``higher_is_better``; ``truncated``: the requests that were
        longer than the model's positions, and lost their beginning.

    Raises:
        InputError: lm-eval is not installed, the model continues no text or cannot be loaded, a task is not
            known, cannot be built, or has its data where they are not reached.
        StorageError: ``output`` cannot be written.
    """
    _need_lm_eval()
    device = _device(settings.device)
    _check(tasks, output)
    own = read_task_folder(settings.folder, settings.allow_code) if settings.folder else {}
    offline = all(name in own and own[name].is_local for name in tasks)
    with noticed(say, offline) as notes, released(model, say) as (folder, step):
        refuse_other_than_causal(folder)
        say(f"loading {', '.join(tasks)}")
        loaded = load_tasks(tasks, own, settings.folder, settings.few_shot)
        say("evaluating")
        results = _evaluate(_load_model(folder, device, settings.batch), loaded, settings.limit)
    found: dict[str, Any] = {"model": str(model), "step": step, "lm_eval": version("lm_eval")}
    found |= {"limit": settings.limit, "truncated": notes.truncated, "scores": list(rows(results))}
    if output:
        write_atomic(output, json.dumps(found, indent=1, ensure_ascii=False, default=str) + "\n")
    return found


def refuse_other_than_causal(folder: Path) -> None:
    """See that the model in a folder has safetensors, and continues texts.

    Raises:
        InputError: it has not, or does not.
    """
    config = folder / "config.json"
    values = read_json_object(config, "give a released model's folder, or a run's")
    names = values.get("architectures")
    if isinstance(names, list) and names:
        kind, causal = names[0], str(names[0]).endswith(_CONTINUES)
    else:
        shape = read_shape(values, str(config))
        kind, causal = shape.family, shape.objective == "causal"
    if not causal:
        raise InputError(
            f"is a '{kind}', which continues no text, and lm-eval scores continuations",
            where=str(config),
            fix="measure an encoder by probes: classifiers fine-tuned from its folder",
        )
    weight_paths(folder)


def rows(results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """lm-eval's results, one row for each metric of each task and group."""
    for task, values in results["results"].items():
        for key, value in values.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            yield {
                "task": task,
                "metric": metric,
                "filter": filtered,
                "value": value,
                "stderr": _number(values.get(f"{metric}_stderr,{filtered}")),
                "n": values.get("sample_len"),
                "of": results["n-samples"].get(task, {}).get("original"),
                "few_shot": results["n-shot"].get(task),
                "higher_is_better": results["higher_is_better"].get(task, {}).get(metric),
            }


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _check(tasks: Sequence[str], output: Path | None) -> None:
    if files := [name for name in tasks if name.endswith(".yaml")]:
        fix = "give its folder by --task-folder, and here what its key 'task' says"
        raise InputError(f"'{files[0]}' is a file", where="--tasks", fix=fix)
    if output:
        if output.is_dir():
            raise InputError("is a folder", where=str(output), fix="give --output a file")
        check_writable(output.parent)


def _need_lm_eval() -> None:
    for name in _NEEDED:
        if find_spec(name) is None:
            raise InputError(
                f"the package {name} is not installed",
                where="evaluate",
                fix="pip install 'raypretrain[evaluate]'",
            )


def _device(wanted: str) -> str:
    import torch

    if wanted not in ("auto", "cpu", "cuda"):
        raise InputError(f"'{wanted}' is no device", where="--device", fix="give auto, cpu or cuda")
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise InputError("torch finds no GPU here", where="--device", fix="give --device cpu")
    return ("cuda" if there else "cpu") if wanted == "auto" else wanted


def _load_model(folder: Path, device: str, batch: int) -> Any:
    """lm-eval's model of a folder; as ``HFLM`` itself would load it, but none of its weights may be missing."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
        model, info = loaded
        wrong = sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"]))
        logging.disable(logging.WARNING)  # it warns of a model that is loaded already
        lm = HFLM(pretrained=model.to(device), backend="causal", batch_size=batch, trust_remote_code=False)
    except Exception as error:  # of any kind: the folder is the user's
        raise InputError(f"cannot be loaded ({first_line(error)})", where=str(folder)) from error
    finally:
        logging.disable(logging.NOTSET)
    if wrong:
        raise InputError(f"has no weights, or none that fit, for {', '.join(wrong[:3])}", where=str(folder))
    return lm


def _evaluate(lm: Any, loaded: Any, limit: int | None) -> Mapping[str, Any]:
    import numpy as np
    import torch
    from jinja2 import TemplateError
    from lm_eval import evaluate

    random.seed(_SEED)
    np.random.seed(_OTHER_SEED)
    torch.manual_seed(_OTHER_SEED)
    try:
        return evaluate(lm, task_dict=loaded, limit=limit, log_samples=False)
    except TemplateError as error:
        raise InputError(
            f"a template does not fit a document ({first_line(error)})", where="--tasks"
        ) from None
    except torch.OutOfMemoryError:
        raise InputError(
            "the GPU's memory does not suffice", where="--batch", fix="give a smaller one"
        ) from None
    except AssertionError as error:
        raise InputError(
            f"an answer is empty, or longer than the model's {lm.max_length:,} positions", where="--tasks"
        ) from error
