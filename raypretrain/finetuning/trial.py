"""One trial: a base model adapted to a task, trained and measured, in one process or several. Plain PyTorch, no Ray."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from raypretrain.errors import InputError
from raypretrain.finetuning.adapt import AdaptConfig
from raypretrain.finetuning.base import unpack
from raypretrain.finetuning.best_epoch import BestEpoch, usual_goal
from raypretrain.finetuning.encode import Encoded, TaskTokens
from raypretrain.finetuning.forgetting import forgotten, recall
from raypretrain.finetuning.head import FeatureCache
from raypretrain.finetuning.kinds.kind import shown
from raypretrain.finetuning.kinds.solvable import Solvable
from raypretrain.finetuning.protect import Protection, blend_with
from raypretrain.finetuning.results import Goal
from raypretrain.finetuning.ridge import best_ridge
from raypretrain.finetuning.spent import Spent
from raypretrain.finetuning.start import WEIGHTS, Start, build, set_precision
from raypretrain.finetuning.state import read_state, write_state
from raypretrain.finetuning.team import ALONE, Team
from raypretrain.finetuning.train import Steps, features_of, known_of, outputs_of, steps_of, train
from raypretrain.models.checkpointing import checkpoint_blocks
from raypretrain.storage import write_atomic
from raypretrain.training.metrics import read_log

Save = Callable[[Path], None]
"""Writes where a trial is into a folder, from where it can go on."""

Report = Callable[[dict[str, Any], Save], None]
"""Takes the numbers of an epoch, and what saves the trial as it is after it."""


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
    """Adapt the base model to a task and measure it, in this process.

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
    lines = trial_lines(start, task, adapt, folder, goal, cache or FeatureCache(), going_on=going_on)
    while True:
        try:
            line, save = next(lines)
        except StopIteration as end:
            return dict(end.value)
        if report:
            report(line, save)


def trial_lines(
    start: Start,
    task: TaskTokens,
    adapt: AdaptConfig,
    folder: Path,
    goal: Goal | None,
    cache: FeatureCache,
    team: Team = ALONE,
    going_on: Path | None = None,
) -> Generator[tuple[dict[str, Any], Save], None, dict[str, Any]]:
    """:func:`run_trial`, which goes on to the next line of ``metrics.jsonl`` when it is asked for.

    Args:
        team: the workers that share the trial, each of which does all of this; the first writes. Where there are
            several, nothing can be saved or gone on from.
    """
    metrics_path = folder / "metrics.jsonl"
    before = read_log(metrics_path) if going_on else []
    spent = Spent(before[-1] if before else None)
    adapt = adapt.held
    goal = goal or usual_goal(task.kind)
    folder.mkdir(parents=True, exist_ok=True)
    line: dict[str, Any] = {}
    writes = team.rank == 0
    path, mode = metrics_path if writes else Path(os.devnull), "a" if going_on else "w"
    with path.open(mode, encoding="utf-8") as metrics:
        trial = RunningTrial(start, task, adapt, cache, team)
        best = BestEpoch(trial.model, goal, adapt.patience)
        if going_on:
            read_state(trial, best, folder.name, going_on)
        for loss in () if best.over else trial.epochs():
            line = {"epoch": trial.epoch, "train_loss": loss} | trial.scores("validation")
            line |= spent.costs(trial.device, team)
            over = best.is_over(line)
            metrics.write(json.dumps(line) + "\n")
            metrics.flush()
            yield line, partial(write_state, trial, best, folder.name)
            if over:
                break
    result = {key: value for key, value in best.line(line).items() if key != "epoch"}
    best.restore()
    trial.end_training()
    if adapt.blend:
        chosen, points = trial.blend(goal)
        result |= {"blend" if key == "share" else key: value for key, value in chosen.items()}
        if writes:
            write_atomic(folder / "blend.json", json.dumps(points, indent=2) + "\n")
    result |= trial.scores("test") | trial.forgetting()
    details = trial.details()
    if writes:
        trial.save(folder / WEIGHTS)
        write_atomic(folder / "examples.json", json.dumps(details) + "\n")
    result |= {
        "examples": len(trial.train),
        "epochs": trial.epoch,
        "parameters_trained": trial.parameters_trained,
    }
    result |= spent.costs(trial.device, team)
    if writes:
        write_atomic(folder / "result.json", json.dumps(result, indent=2) + "\n")
    return result


class RunningTrial:
    """A trial under way: its model, its examples, and how both are looked at; all of its workers do so together.

    Attributes:
        epoch: epochs that are done.
        steps: of its training, from the first one to the last.
    """

    def __init__(
        self, start: Start, task: TaskTokens, adapt: AdaptConfig, cache: FeatureCache, team: Team = ALONE
    ) -> None:
        self.team, self.epoch, self.steps = team, 0, cast(Steps | None, None)
        self.start, self.task, self.kind, self.adapt = start, task, task.kind, adapt
        self.pad, self.cache = start.pad, cache
        self.train: Encoded = task.examples(adapt.seed, adapt.examples)
        if adapt.way != "head" and len(self.train) < adapt.batch:
            raise InputError(
                f"{len(self.train)} examples are fewer than a batch of {adapt.batch}", where=task.name
            )
        self.device = torch.device(team.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.manual_seed(adapt.seed + team.rank)  # of dropout
        model: Any = build(start, adapt, task.kind)
        set_precision(model.network, start.precision)
        checkpoint_blocks(model.network, start.checkpointing, random=True)
        self.model = cast(nn.Module, model.to(self.device))
        self.parameters_trained = sum(w.numel() for w in self.model.parameters() if w.requires_grad)
        self.splits = {"train": self.train, "validation": task.validation, "test": task.test}
        self.splits = {name: self._with_known(data) for name, data in self.splits.items()}
        self._outputs: tuple[str, list[np.ndarray]] = ("", [])

    def _with_known(self, data: Encoded) -> Encoded:
        known = known_of(self.model, self.kind, data, self.pad, self.team) if len(data) else None
        return data if known is None else replace(data, known=known)

    def epochs(self) -> Iterator[float]:
        """Adapt the model; the mean training loss after each epoch (one, where the head is solved for)."""
        data, kind, adapt = self.splits["train"], self.kind, self.adapt
        if isinstance(kind, Solvable) and not self.epoch:
            if adapt.way == "head" or adapt.warm_head:
                self._solve(kind, data)
            else:
                kind.warm(self.model, lambda: self.vectors("train"))
        if adapt.way == "head":
            self.epoch = 1
            yield kind.scores(self.outputs("train"), data)["loss"]
        else:
            for loss in train(self.begun(), data, adapt, self.epoch):
                self.epoch += 1
                yield loss

    def begun(self) -> Steps:
        """``steps``, which are made when they are first asked for; with ZeRO 3 the model is in parts from then on."""
        if self.steps is None:
            model, data, adapt = cast(Any, self.model), self.splits["train"], self.adapt
            base, total = unpack(self.start.weights), steps_of(adapt, len(data))
            protection = Protection(model.network, base, self.start.text, adapt, total)
            given = (model, self.kind, data, adapt, self.pad, protection)
            if self.team.world == 1:
                self.steps = Steps(*given)
            else:
                from raypretrain.finetuning.shared import SharedSteps  # imports DeepSpeed

                self.steps = SharedSteps(*given, self.team, self.start.precision)
        return self.steps

    def end_training(self) -> None:
        """Let go of what only training needs; with ZeRO 3 the model is whole from here on."""
        if self.steps:
            self.steps.end()
        self.steps = None

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
        return forgotten(before, before if frozen else self.team.first(recall(model.network, text)))

    def scores(self, split: str) -> dict[str, float]:
        """The kind's metrics on a split as ``<split>_…``; nothing for a split without examples."""
        if not len(self.splits[split]):
            return {}
        # The first worker's: on another kind of machine the last digits may differ, and all have to decide alike.
        found = self.team.first(self.kind.scores(self.outputs(split), self.splits[split]))
        return {f"{split}_{name}": value for name, value in found.items()}

    def outputs(self, split: str) -> list[np.ndarray]:
        """What the model predicts of a split. The network is asked once for what its frozen features say."""
        data, kind = self.splits[split], self.kind
        if self.adapt.way != "head":
            ask = self.steps.ask if self.steps else None
            found = outputs_of(self.model, kind, data, self.pad, self.team, ask)
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
