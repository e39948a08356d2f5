"""One trial: a base model adapted to a task, trained and measured in this process. Plain PyTorch, no Ray."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from raypretrain.errors import InputError
from raypretrain.finetuning.adapt import AdaptConfig
from raypretrain.finetuning.base import Packed, unpack
from raypretrain.finetuning.base_text import BaseText
from raypretrain.finetuning.best_epoch import BestEpoch, usual_goal
from raypretrain.finetuning.encode import Encoded, TaskTokens
from raypretrain.finetuning.forgetting import forgotten, recall
from raypretrain.finetuning.head import FeatureCache
from raypretrain.finetuning.kinds.kind import Kind, Solvable, shown
from raypretrain.finetuning.protect import Protection, blend_with
from raypretrain.finetuning.results import Goal
from raypretrain.finetuning.ridge import best_ridge
from raypretrain.finetuning.spent import Spent
from raypretrain.finetuning.state import read_state, write_state
from raypretrain.finetuning.train import beginning, features_of, known_of, outputs_of, steps_of, train
from raypretrain.models.families import build as build_network
from raypretrain.models.freezing import freeze_below
from raypretrain.models.layout import unread_by_heads
from raypretrain.models.lora import add_adapters, merged_state
from raypretrain.models.shape import ModelShape
from raypretrain.storage import write_atomic
from raypretrain.training.metrics import read_log

WEIGHTS = "trained.safetensors"
"""What a trial changed: the head alone, adapters, or every weight."""

Save = Callable[[Path], None]
"""Writes where a trial is into a folder, from where it can go on."""

Report = Callable[[dict[str, Any], Save], None]
"""Takes the numbers of an epoch, and what saves the trial as it is after it."""


@dataclass(frozen=True)
class Start:
    """What all trials of a search have in common: the base model, in memory that they may share."""

    shape: ModelShape
    weights: Packed
    pad: int
    text: BaseText | None = None
    before: dict[str, Any] | None = None
    """What :func:`raypretrain.finetuning.forgetting.recall` says of the base."""


def run_trial(
    start: Start,
    task: TaskTokens,
    adapt: AdaptConfig,
    folder: Path,
    *,
    goal: Goal | None = None,
    report: Report | None = None,
    cache: FeatureCache | None = None,
    going_on: Path | None = None,
) -> dict[str, Any]:
    """Adapt the base model to a task and measure it.

    Writes ``metrics.jsonl`` (a line an epoch), ``trained.safetensors``, ``examples.json`` (for the report) and, last,
    ``result.json`` into ``folder``. The same arguments give the same numbers on the same kind of machine with the same
    number of threads.

    Args:
        goal: what ``adapt.patience`` and ``adapt.blend`` go by; None: the kind's usual metric.
        report: is called with each line of ``metrics.jsonl``.
        cache: features of earlier trials of the same search.
        going_on: what ``Save`` wrote: the trial begins there. What another trial wrote serves as well, if both have
            the same weights to train; then it goes on with the other's, and with its own settings.

    Returns:
        The content of ``result.json``: the kind's metrics as ``validation_…`` and ``test_…``, ``train_loss``,
        ``seconds``, ``cpu_hours``, ``gpu_hours``, ``examples``, ``epochs``, ``parameters_trained``.

    Raises:
        RunError: the loss is no longer a number.
    """
    metrics_path = folder / "metrics.jsonl"
    before = read_log(metrics_path) if going_on else []
    spent = Spent(before[-1] if before else None)
    adapt = adapt.held
    goal = goal or usual_goal(task.kind)
    folder.mkdir(parents=True, exist_ok=True)
    line: dict[str, Any] = {}
    with metrics_path.open("a" if going_on else "w", encoding="utf-8") as metrics:
        trial = RunningTrial(start, task, adapt, cache or FeatureCache())
        best = BestEpoch(trial.model, goal, adapt.patience)
        if going_on:
            read_state(trial, best, folder.name, going_on)
        for loss in () if best.over else trial.epochs():
            line = {"epoch": trial.progress.epoch, "train_loss": loss} | trial.scores("validation")
            line |= spent.costs(trial.device)
            over = best.is_over(line)
            metrics.write(json.dumps(line) + "\n")
            metrics.flush()
            if report:
                report(line, partial(write_state, trial, best, folder.name))
            if over:
                break
    result = {key: value for key, value in best.line(line).items() if key != "epoch"}
    best.restore()
    if adapt.blend:
        chosen, points = trial.blend(goal)
        result |= {"blend" if key == "share" else key: value for key, value in chosen.items()}
        write_atomic(folder / "blend.json", json.dumps(points, indent=2) + "\n")
    result |= trial.scores("test") | trial.forgetting()
    trial.save(folder / WEIGHTS)
    write_atomic(folder / "examples.json", json.dumps(trial.details()) + "\n")
    result |= {
        "examples": len(trial.train),
        "epochs": trial.progress.epoch,
        "parameters_trained": trial.parameters_trained,
    }
    result |= spent.costs(trial.device)
    write_atomic(folder / "result.json", json.dumps(result, indent=2) + "\n")
    return result


def build(start: Start, adapt: AdaptConfig, kind: Kind) -> nn.Module:
    """The model as a trial begins with it: the head zero, on the CPU, fp32; what is not trained wants no gradient."""
    network = build_network(start.shape).float()
    if adapt.init == "base":
        network.load_state_dict(unpack(start.weights))
    else:
        network.init_weights(adapt.seed)
    model = kind.model(network, adapt.pooling)
    if adapt.way == "lora":
        add_adapters(network, adapt.lora, adapt.seed)
    elif adapt.way == "head":
        network.requires_grad_(False)
    elif adapt.top_layers is not None:
        freeze_below(network, adapt.top_layers)
    if not kind.learns_output:
        unread = unread_by_heads(start.shape.family)
        for name, weight in network.named_parameters():
            if name in unread:
                weight.requires_grad_(False)
    return model


def rebuild(start: Start, adapt: AdaptConfig, kind: Kind, folder: Path) -> nn.Module:
    """The model that a trial ended with, from what it saved in ``folder``; adapters are merged."""
    model: Any = build(start, adapt, kind)
    model.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    if adapt.way == "lora":
        merged = build_network(start.shape).float()
        merged.load_state_dict(merged_state(model.network))
        model.network = merged
    return model


class RunningTrial:
    """A trial under way: its model, its examples, and how both are looked at."""

    def __init__(self, start: Start, task: TaskTokens, adapt: AdaptConfig, cache: FeatureCache) -> None:
        self.start, self.task, self.kind, self.adapt = start, task, task.kind, adapt
        self.pad, self.cache = start.pad, cache
        self.train: Encoded = task.examples(adapt.seed, adapt.examples)
        if adapt.way != "head" and len(self.train) < adapt.batch:
            raise InputError(
                f"{len(self.train)} examples are fewer than a batch of {adapt.batch}", where=task.name
            )
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(adapt.seed)  # of dropout
        self.model = build(start, adapt, task.kind).to(self.device)
        self.progress = beginning(self.model, adapt)
        self.parameters_trained = sum(w.numel() for w in self.model.parameters() if w.requires_grad)
        self.splits = {"train": self.train, "validation": task.validation, "test": task.test}
        self.splits = {name: self._with_known(data) for name, data in self.splits.items()}
        self._outputs: tuple[str, list[np.ndarray]] = ("", [])

    def _with_known(self, data: Encoded) -> Encoded:
        known = known_of(self.model, self.kind, data, self.pad) if len(data) else None
        return data if known is None else replace(data, known=known)

    def epochs(self) -> Iterator[float]:
        """Adapt the model; the mean training loss after each epoch (one, where the head is solved for)."""
        data, kind, adapt = self.splits["train"], self.kind, self.adapt
        if isinstance(kind, Solvable) and not self.progress.epoch:
            if adapt.way == "head" or adapt.warm_head:
                self._solve(kind, data)
            else:
                kind.warm(self.model, lambda: self.vectors("train"))
        if adapt.way == "head":
            self.progress.epoch = 1
            yield kind.scores(self.outputs("train"), data)["loss"]
        else:
            model: Any = self.model
            base, steps = unpack(self.start.weights), steps_of(adapt, len(data))
            protection = Protection(model.network, base, self.start.text, adapt, steps)
            yield from train(self.model, kind, data, adapt, self.pad, self.progress, protection)

    def _solve(self, kind: Solvable, data: Encoded) -> None:
        weights = kind.class_weights(data) if self.adapt.class_weights == "balanced" else None
        vectors, ridge = self.vectors("train"), self.adapt.ridge
        if ridge == "auto":
            ridge = best_ridge(self.model, kind, vectors, data, weights, self.adapt.seed)
        kind.solve(self.model, vectors, data, ridge, weights)

    def blend(self, goal: Goal) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Set the network between the base and what it is: the chosen share's numbers, and those of all."""
        model: Any = self.model
        base = unpack(self.start.weights)

        def evaluate() -> dict[str, Any]:
            return self.scores("validation") | self.forgetting()

        return blend_with(model.network, base, self.adapt, goal, evaluate)

    def forgetting(self) -> dict[str, float]:
        """What the network has lost of what the base could; nothing where that cannot be said."""
        text, before, model = self.start.text, self.start.before, cast(Any, self.model)
        if text is None or before is None or self.adapt.init == "scratch":
            return {}
        frozen = self.adapt.way == "head"
        return forgotten(before, before if frozen else recall(model.network, text))

    def scores(self, split: str) -> dict[str, float]:
        """The kind's metrics on a split as ``<split>_…``; nothing for a split without examples."""
        if not len(self.splits[split]):
            return {}
        found = self.kind.scores(self.outputs(split), self.splits[split])
        return {f"{split}_{name}": value for name, value in found.items()}

    def outputs(self, split: str) -> list[np.ndarray]:
        """What the model predicts of a split. The network is asked once for what its frozen features say."""
        data, kind = self.splits[split], self.kind
        if self.adapt.way != "head":
            found = outputs_of(self.model, kind, data, self.pad)
        else:
            assert isinstance(kind, Solvable)
            model: Any = self.model
            with torch.no_grad():
                scores = model.scores(self.vectors(split).to(self.device)).float().cpu().numpy()
            found = np.split(scores, np.cumsum(kind.counts(data))[:-1])
        self._outputs = (split, found)
        return found

    def vectors(self, split: str) -> Tensor:
        """The features of a split. Those of a frozen network are computed once; then trials share them."""
        kind, data, adapt = self.kind, self.splits[split], self.adapt
        assert isinstance(kind, Solvable)
        random = adapt.seed if adapt.init == "scratch" or split == "train" else None
        drawn = adapt.examples if split == "train" else None
        key = (self.task.name, split, adapt.length, adapt.pooling, adapt.init, random, drawn)
        return self.cache.get(key, lambda: features_of(self.model, kind, data, self.pad))

    def details(self) -> dict[str, Any]:
        """What the report shows of the examples: those with the largest loss, and how labels are confused."""
        split = self.task.judged
        outputs = self._outputs[1] if self._outputs[0] == split else self.outputs(split)
        found = self.kind.details(outputs, self.splits[split])
        return {} if found is None else shown(found, self.task.texts)

    def trained(self) -> dict[str, Tensor]:
        """The weights that are trained, and what the head knows of the task, on the CPU."""
        wanted = {name for name, weight in self.model.named_parameters() if weight.requires_grad}
        return {
            name: weight.cpu().contiguous()
            for name, weight in self.model.state_dict().items()
            if name in wanted or not name.startswith("network.")
        }

    def save(self, path: Path) -> None:
        """Write what was trained."""
        kept = self.trained()
        temporary = path.with_name(path.name + ".tmp")
        save_file(kept, temporary)
        temporary.replace(path)
