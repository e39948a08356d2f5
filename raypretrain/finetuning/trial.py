"""One trial: a classifier from a base model, trained and measured in this process. Plain PyTorch, no Ray."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from raypretrain.errors import InputError
from raypretrain.finetuning.adapt import AdaptConfig
from raypretrain.finetuning.base import Packed, unpack
from raypretrain.finetuning.encode import Encoded, TaskTokens
from raypretrain.finetuning.full import train_full
from raypretrain.finetuning.head import FeatureCache, features, solve_head
from raypretrain.finetuning.scores import scores_of
from raypretrain.models.config import ModelShape
from raypretrain.models.heads import SequenceClassifier
from raypretrain.storage import write_atomic

WEIGHTS = "classifier.safetensors"
"""What a trial changed: the head alone, or every weight."""

Report = Callable[[dict[str, Any]], None]
"""Takes the numbers of an epoch."""


@dataclass(frozen=True)
class Start:
    """What all trials of a search have in common: the base model, in memory that they may share."""

    shape: ModelShape
    weights: Packed
    pad: int


def run_trial(
    start: Start,
    task: TaskTokens,
    adapt: AdaptConfig,
    folder: Path,
    *,
    report: Report | None = None,
    cache: FeatureCache | None = None,
) -> dict[str, Any]:
    """Train one classifier and measure it.

    Writes ``metrics.jsonl`` (a line an epoch), ``classifier.safetensors`` and, last, ``result.json`` into
    ``folder``. The same arguments give the same numbers on the same kind of machine with the same number of
    threads.

    Args:
        report: is called with each line of ``metrics.jsonl``.
        cache: features of earlier trials of the same search.

    Returns:
        The content of ``result.json``: ``validation_`` and ``test_`` ``accuracy``, ``macro_f1`` and ``loss``
        (nats), ``train_loss``, ``seconds``, ``examples``, ``epochs``, ``parameters_trained``.

    Raises:
        RunError: the loss is no longer a number.
    """
    began = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as metrics:
        trial = _Trial(start, task, adapt, cache or FeatureCache())
        for epoch, loss in enumerate(trial.epochs(), start=1):
            line = {"epoch": epoch, "train_loss": loss} | trial.scores("validation")
            line["seconds"] = round(time.perf_counter() - began, 3)
            metrics.write(json.dumps(line) + "\n")
            metrics.flush()
            if report:
                report(line)
    result = {key: value for key, value in line.items() if key != "epoch"} | trial.scores("test")
    trial.save(folder / WEIGHTS)
    result |= {"examples": len(trial.train), "epochs": epoch, "parameters_trained": trial.parameters_trained}
    result["seconds"] = round(time.perf_counter() - began, 3)
    write_atomic(folder / "result.json", json.dumps(result, indent=2) + "\n")
    return result


def build(start: Start, adapt: AdaptConfig, labels: int) -> SequenceClassifier:
    """The classifier as a trial begins with it: the head zero, on the CPU, fp32."""
    model = SequenceClassifier(start.shape, labels, adapt.pooling)
    if adapt.init == "base":
        model.load_base(unpack(start.weights))
    else:
        model.init_weights(adapt.seed)
    torch.nn.init.zeros_(model.score.weight)
    return model


def rebuild(start: Start, adapt: AdaptConfig, labels: int, folder: Path) -> SequenceClassifier:
    """The classifier that a trial ended with, from what it saved in ``folder``."""
    model = build(start, adapt, labels)
    model.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    return model


class _Trial:
    """A trial under way: its model, its examples, and how both are looked at."""

    def __init__(self, start: Start, task: TaskTokens, adapt: AdaptConfig, cache: FeatureCache) -> None:
        self.task, self.adapt, self.pad, self.cache = task, adapt, start.pad, cache
        self.train: Encoded = task.examples(adapt.seed)
        if adapt.way == "full" and len(self.train) < adapt.batch:
            raise InputError(
                f"{len(self.train)} examples are fewer than a batch of {adapt.batch}", where=task.name
            )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = build(start, adapt, len(task.labels)).to(device)
        trained = self.model.parameters() if adapt.way == "full" else [self.model.score.weight]
        self.parameters_trained = sum(weight.numel() for weight in trained)

    def epochs(self) -> Iterator[float]:
        """Adapt the model; the mean training loss after each epoch (one, where the head is solved for)."""
        if self.adapt.way == "full":
            yield from train_full(self.model, self.train, self.adapt, self.pad)
            return
        vectors, classes = self.vectors("train"), torch.from_numpy(self.train.classes)
        head = solve_head(vectors, classes, len(self.task.labels), self.adapt.ridge)
        self.model.score.weight.data.copy_(head)
        yield scores_of((vectors @ head.T).numpy(), self.train.classes)["loss"]

    def scores(self, split: str) -> dict[str, float]:
        """Accuracy, macro F1 and loss on a split as ``<split>_…``; nothing for a split without examples."""
        data: Encoded = getattr(self.task, split)
        if not len(data):
            return {}
        logits = self.vectors(split) @ self.model.score.weight.detach().float().cpu().T
        return {f"{split}_{name}": value for name, value in scores_of(logits.numpy(), data.classes).items()}

    def vectors(self, split: str) -> Tensor:
        """The features of a split. Those of a frozen model are computed once; then trials share them."""
        data = self.train if split == "train" else getattr(self.task, split)
        if self.adapt.way == "full":
            return features(self.model, data, self.pad)
        random = self.adapt.seed if self.adapt.init == "scratch" or split == "train" else None
        key = (self.task.name, split, self.adapt.length, self.adapt.pooling, self.adapt.init, random)
        return self.cache.get(key, lambda: features(self.model, data, self.pad))

    def save(self, path: Path) -> None:
        """Write what was trained."""
        state = self.model.state_dict()
        kept = state if self.adapt.way == "full" else {"score.weight": state["score.weight"]}
        temporary = path.with_name(path.name + ".tmp")
        save_file({name: weight.cpu().contiguous() for name, weight in kept.items()}, temporary)
        temporary.replace(path)
