"""The best model of a task, released: a folder that ``transformers`` loads and that predicts alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from raypretrain.errors import RunError
from raypretrain.finetuning.card import write_card
from raypretrain.finetuning.chat import PLAIN_TEMPLATE
from raypretrain.finetuning.history import history
from raypretrain.finetuning.start import WEIGHTS, Start, rebuild
from raypretrain.finetuning.trial import run_trial
from raypretrain.finetuning.work import PlannedTrial, Work
from raypretrain.models.lora import is_adapter
from raypretrain.models.lora_files import save_peft
from raypretrain.models.releasing import Special
from raypretrain.storage import write_atomic

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model")


def release(work: Work, start: Start, trial: PlannedTrial, result: dict[str, Any]) -> Path:
    """Write ``best/<task>`` for the classes of ``transformers`` that fit the task's kind, and ``AutoTokenizer``.

    ``truncation=True`` alone cuts texts as the trial did: the length is in the tokenizer's config.
    ``trial.json`` says which trial this is and what it measured, ``README.md`` the same to people. Adapters are merged,
    and lie in ``adapter`` as the library ``peft`` reads them.

    Raises:
        RunError: the weights of a trial are gone that is not made again alone.
    """
    task, base = work.tasks[trial.task], work.base
    folder = work.folder / "best" / trial.task
    if not (work.trial_folder(trial) / WEIGHTS).exists():
        if history(work.trial_folder(trial)):
            raise RunError(
                "the weights are gone, and alone it would not come to them again: it went on from another trial's",
                where=str(work.trial_folder(trial)),
                fix="delete the folders of its population in trials/, and search again",
            )
        # Deleted when another trial was the best one: the same trial gives the same weights again.
        tokens = work.tokens([(trial.task, trial.adapt)])[trial.task, trial.length]
        goal = work.goals[trial.task]
        run_trial(start, tokens, trial.adapt, work.trial_folder(trial), goal=goal)
    model = rebuild(start, trial.adapt, task.kind, work.trial_folder(trial))
    task.kind.release(model, folder, Special(base.pad, base.bos, base.eos))
    for name in TOKENIZER_FILES:
        if (base.folder / name).exists():
            shutil.copyfile(base.folder / name, folder / name)
    _fit_tokenizer_config(folder, base.tokenizer, base.pad, trial.length, task.kind.learns_output)
    if trial.adapt.way == "lora":
        state = load_file(work.trial_folder(trial) / WEIGHTS)
        own = {name.removeprefix("network."): weight for name, weight in state.items()}
        adapters = {name: weight for name, weight in own.items() if is_adapter(name)}
        save_peft(adapters, base.shape, trial.adapt.lora, folder / "adapter", base.folder.name)
    write_card(work, trial, result, folder)
    write_atomic(folder / "trial.json", json.dumps({"trial": trial.id} | result, indent=2) + "\n")
    return folder


def forget_weights(work: Work, keep: set[str]) -> None:
    """Delete the weights of all trials but ``keep``: of a large model, each trial's take gigabytes."""
    for trial in work.trials:
        if trial.id not in keep:
            (work.trial_folder(trial) / WEIGHTS).unlink(missing_ok=True)


def _fit_tokenizer_config(folder: Path, tokenizer: Path, pad: int, length: int, chats: bool) -> None:
    """Pad on the right with ``pad``, cut at ``length``: what the model was trained with.

    Args:
        chats: it answers messages: the template is written that it was trained with, whose special tokens are such.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer_config.json"
    values = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    values.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
    values["pad_token"] = Tokenizer.from_file(str(tokenizer)).id_to_token(pad)
    values |= {"model_max_length": length, "padding_side": "right", "truncation_side": "right"}
    # Nothing here is trained with token types: a text that comes second is marked by what parts it from the first.
    values["model_input_names"] = ["input_ids", "attention_mask"]
    if chats:
        values.setdefault("chat_template", PLAIN_TEMPLATE)
        values["split_special_tokens"] = False
    write_atomic(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
