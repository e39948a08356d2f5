"""The released model: a run's weights and tokenizer in Hugging Face's layout, and what the run came to."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raypretrain import storage
from raypretrain.errors import RunError
from raypretrain.models.huggingface import save_language_model
from raypretrain.tokens.export import save_huggingface_tokenizer
from raypretrain.tokens.tokenizer import Tokenizer
from raypretrain.training import checkpoint
from raypretrain.training.card import write_card
from raypretrain.training.metrics import read_log
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder

if TYPE_CHECKING:
    from torch import Tensor

WARM_UP_STEPS = 10
"""Steps that are left out of the figures: in the first ones the stream and the caches fill."""

_LAST = "config.json"


def export(
    folder: RunFolder,
    to: str | Path,
    say: Callable[[str], None] = print,
    at: int | None = None,
    average: int | None = None,
) -> list[int]:
    """Write a run's weights and tokenizer to ``to``; returns the steps of the checkpoints that they are of.

    Args:
        at: the step of the newest checkpoint; None takes the newest that verifies.
        average: of so many checkpoints, the mean; None takes the recipe's ``training.average``.
        to: a folder, or the URL of one in a store. There ``config.json`` comes last: without it, nothing loads
            what was half written.

    Raises:
        RunError: there is no such run, or no such checkpoint.
        StorageError: ``to`` cannot be written to.
    """
    url = str(to).rstrip("/")
    if not storage.is_remote(url):
        return _export(folder, Path(str(to).removeprefix("file://")), say, at, average)
    storage.list_files(f"{url}/{_LAST}")  # wrong keys and names are told at once
    with tempfile.TemporaryDirectory(prefix="raypretrain-export-") as temporary:
        steps = _export(folder, Path(temporary), say, at, average)
        storage.upload_folder(temporary, url, last=_LAST)
    return steps


def _export(
    folder: RunFolder, to: Path, say: Callable[[str], None], at: int | None, average: int | None
) -> list[int]:
    recipe = folder.read_recipe()
    wanted = average or recipe.training.average
    chosen = list(islice(checkpoint.verified(folder.checkpoints, say, at), wanted))
    if not chosen:
        raise RunError("has no checkpoint yet", where=str(folder.path), fix="train until the first one")
    if len(chosen) < wanted:
        say(f"note: the weights are the mean of {len(chosen)} checkpoints, because there are no more")
    steps = [checkpoint.step_of(one) for one in chosen]
    tokenizer = Tokenizer.load(folder.tokenizer)
    shape = recipe.model.shape(tokenizer.vocabulary, recipe.sequences.length)
    state = mean_weights(chosen)
    storage.check_writable(to)
    to.mkdir(parents=True, exist_ok=True)
    save_language_model(state, shape, to, bos=tokenizer.bos, eos=tokenizer.eos, pad=tokenizer.pad)
    save_huggingface_tokenizer(tokenizer, to)
    write_card(folder, recipe, tokenizer, shape, steps, to)
    return steps


def mean_weights(checkpoints: list[Path]) -> dict[str, Tensor]:
    """The mean of the weights of some checkpoints, in fp32 on the CPU.

    Averaging the last ones of a run stands for a longer decay (Izmailov et al., arXiv:1803.05407; Kaddour,
    arXiv:2209.14981).
    """
    from raypretrain.training.engine import consolidated_state

    mean: dict[str, Tensor] = {}
    for number, folder in enumerate(checkpoints, start=1):
        state = consolidated_state(folder, checkpoint.read_standing(folder).zero)
        mean = (
            {name: mean[name].lerp_(weight, 1 / number) for name, weight in state.items()} if mean else state
        )
    return mean


def release(folder: RunFolder, recipe: PretrainRecipe, tokenizer: Tokenizer) -> dict[str, Any]:
    """Export the finished run to ``RUN/model`` and sum it up."""
    export(folder, folder.model, say=lambda line: None)
    shape = recipe.model.shape(tokenizer.vocabulary, recipe.sequences.length)
    return {"model": str(folder.model), "parameters": shape.parameters, **summary(folder)}


@contextmanager
def released(path: Path, say: Callable[[str], None] = print) -> Iterator[tuple[Path, int | None]]:
    """The model that ``path`` stands for: a folder of one, with the step that its weights are of, where it is known.

    A finished run stands for the model that it released; another run for its newest checkpoint (or the mean of some,
    as its recipe says), exported for as long as the context lasts. Any other folder stands for itself.

    Raises:
        RunError: the run has no checkpoint.
    """
    run = RunFolder(path)
    result = run.read_result()
    if result and run.model.is_dir():
        yield run.model, result["steps"]
    elif run.recipe.is_file():
        with tempfile.TemporaryDirectory(prefix="raypretrain-export-") as temporary:
            steps = export(run, temporary, say)
            say(f"{path}: the weights after step {', '.join(f'{step:,}' for step in steps)}")
            yield Path(temporary), steps[0]
    else:
        yield path, None


def summary(folder: RunFolder) -> dict[str, Any]:
    """The run's figures: speed and waiting after the first steps, held-out loss at the start and the end."""
    rows = read_log(folder.metrics)
    evaluations = read_log(folder.evaluations)
    steady = rows[WARM_UP_STEPS:] or rows
    seconds = sum(row["step_seconds"] for row in steady)
    figures: dict[str, Any] = {
        "steps": rows[-1]["step"],
        "tokens": rows[-1]["tokens"],
        "final_loss": next((row["loss"] for row in reversed(rows) if row["loss"] is not None), None),
        "train_seconds": sum(row["step_seconds"] for row in rows),
        "tokens_per_second": rows[-1]["tokens"] / rows[-1]["step"] * len(steady) / seconds,
        "median_step_seconds": statistics.median(row["step_seconds"] for row in steady),
        "data_wait_share": sum(row["data_wait_seconds"] for row in steady) / seconds,
    }
    if skipped := sum("skipped" in row for row in rows):
        rewinds = sum("rewound_to" in row for row in rows)
        figures |= {"skipped_steps": skipped, "rewinds": rewinds, "updates": rows[-1]["updates"]}
    if evaluations:
        for name, row in (("first", evaluations[0]), ("last", evaluations[-1])):
            figures[f"{name}_held_out_loss"] = row["held_out_loss"]
            figures[f"{name}_held_out_bits_per_byte"] = row["held_out_bits_per_byte"]
            if "sources" in row:
                figures[f"{name}_held_out_of_sources"] = row["sources"]
    return figures
