"""One trial: a base model adapted to a task, trained and measured, in one process or several. Plain PyTorch, no Ray."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from raypretrain.errors import InputError
from raypretrain.finetuning.adapt import AdaptConfig
from raypretrain.finetuning.base import unpack
from raypretrain.finetuning.best_epoch import BestEpoch, usual_goal
from raypretrain.finetuning.encode import Encoded, TaskTokens
from raypretrain.finetuning.forgetting import forgotten, recall
from raypretrain.finetuning.head import FeatureCache
from raypretrain.finetuning.kinds.kind import Solvable, shown
from raypretrain.finetuning.protect import Protection, blend_with
from raypretrain.finetuning.results import Goal
from raypretrain.finetuning.ridge import best_ridge
from raypretrain.finetuning.start import WEIGHTS, Start, build
from raypretrain.finetuning.team import ALONE, Team
from raypretrain.finetuning.train import Steps, features_of, known_of, outputs_of, steps_of, train
from raypretrain.storage import write_atomic

Report = Callable[[dict[str, Any]], None]
"""Takes the numbers of an epoch."""


class Spent:
    """What was spent since it was made."""

    def __init__(self) -> None:
        self._began, self._used = time.perf_counter(), time.process_time()

    @property
    def seconds(self) -> float:
        """Of the clock, to the millisecond."""
        return round(time.perf_counter() - self._began, 3)

    def costs(self, device: torch.device, team: Team = ALONE) -> dict[str, float]:
        """``seconds``, and of the team ``cpu_hours``, and ``gpu_hours`` if each had the one that ``device`` is."""
        seconds = self.seconds
        return {
            "seconds": seconds,
            "cpu_hours": team.total((time.process_time() - self._used) / 3600),
            "gpu_hours": team.total(seconds / 3600 if device.type == "cuda" else 0.0),
        }


def run_trial(
    start: Start,
    task: TaskTokens,
    adapt: AdaptConfig,
    folder: Path,
    *,
    goal: Goal | None = None,
    report: Report | None = None,
    cache: FeatureCache | None = None,
) -> dict[str, Any]:
    """Adapt the base model to a task and measure it, in this process.

    Writes ``metrics.jsonl`` (a line an epoch), ``trained.safetensors``, ``examples.json`` (for the report) and, last,
    ``result.json`` into ``folder``. The same arguments give the same numbers on the same kind of machine with the same
    number of threads.

    Args:
        goal: what ``adapt.patience`` and ``adapt.blend`` go by; None: the kind's usual metric.
        report: is called with each line of ``metrics.jsonl``.
        cache: features of earlier trials of the same search.

    Returns:
        The content of ``result.json``: the kind's metrics as ``validation_…`` and ``test_…``, ``train_loss``,
        ``seconds``, ``cpu_hours``, ``gpu_hours``, ``examples``, ``epochs``, ``parameters_trained``.

    Raises:
        RunError: the loss is no longer a number.
    """
    lines = trial_lines(start, task, adapt, folder, goal, cache or FeatureCache())
    while True:
        try:
            line = next(lines)
        except StopIteration as end:
            return dict(end.value)
        if report:
            report(line)


def trial_lines(
    start: Start,
    task: TaskTokens,
    adapt: AdaptConfig,
    folder: Path,
    goal: Goal | None,
    cache: FeatureCache,
    team: Team = ALONE,
) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """:func:`run_trial`, which goes on to the next line of ``metrics.jsonl`` when it is asked for.

    Args:
        team: the workers that share the trial, each of which does all of this; the first writes.
    """
    spent = Spent()
    adapt = adapt.held
    goal = goal or usual_goal(task.kind)
    folder.mkdir(parents=True, exist_ok=True)
    line: dict[str, Any] = {}
    writes = team.rank == 0
    with (folder / "metrics.jsonl" if writes else Path(os.devnull)).open("w", encoding="utf-8") as metrics:
        trial = RunningTrial(start, task, adapt, cache, team)
        best = BestEpoch(trial.model, goal, adapt.patience)
        for epoch, loss in enumerate(trial.epochs(), start=1):
            line = {"epoch": epoch, "train_loss": loss} | trial.scores("validation")
            line["seconds"] = spent.seconds
            metrics.write(json.dumps(line) + "\n")
            metrics.flush()
            yield line
            if best.is_over(line):
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
    result |= {"examples": len(trial.train), "epochs": epoch, "parameters_trained": trial.parameters_trained}
    result |= spent.costs(trial.device, team)
    if writes:
        write_atomic(folder / "result.json", json.dumps(result, indent=2) + "\n")
    return result


class RunningTrial:
    """A trial under way: its model, its examples, and how both are looked at; all of its workers do so together."""

    def __init__(
        self, start: Start, task: TaskTokens, adapt: AdaptConfig, cache: FeatureCache, team: Team = ALONE
    ) -> None:
        self.team, self._steps = team, cast(Steps | None, None)
        self.start, self.task, self.kind, self.adapt = start, task, task.kind, adapt
        self.pad, self.cache = start.pad, cache
        self.train: Encoded = task.examples(adapt.seed, adapt.examples)
        if adapt.way != "head" and len(self.train) < adapt.batch:
            raise InputError(
                f"{len(self.train)} examples are fewer than a batch of {adapt.batch}", where=task.name
            )
        self.device = torch.device(team.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.manual_seed(adapt.seed + team.rank)  # of dropout
        self.model = build(start, adapt, task.kind).to(self.device)
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
        if isinstance(kind, Solvable):
            if adapt.way == "head" or adapt.warm_head:
                self._solve(kind, data)
            else:
                kind.warm(self.model, lambda: self.vectors("train"))
        if adapt.way == "head":
            yield kind.scores(self.outputs("train"), data)["loss"]
        else:
            model: Any = self.model
            base, steps = unpack(self.start.weights), steps_of(adapt, len(data))
            protection = Protection(model.network, base, self.start.text, adapt, steps)
            self._steps = self._made_steps(data, protection)
            yield from train(self._steps, data, adapt)

    def _made_steps(self, data: Encoded, protection: Protection) -> Steps:
        given = (self.model, self.kind, data, self.adapt, self.pad, protection)
        if self.team.world == 1:
            return Steps(*given)
        from raypretrain.finetuning.shared import SharedSteps  # imports DeepSpeed

        return SharedSteps(*given, self.team)

    def end_training(self) -> None:
        """Let go of what only training needs; with ZeRO 3 the model is whole from here on."""
        if self._steps:
            self._steps.end()
        self._steps = None

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
            ask = self._steps.ask if self._steps else None
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

    def save(self, path: Path) -> None:
        """Write what was trained."""
        wanted = {name for name, weight in self.model.named_parameters() if weight.requires_grad}
        kept = {
            name: weight.cpu().contiguous()
            for name, weight in self.model.state_dict().items()
            if name in wanted or not name.startswith("network.")
        }
        temporary = path.with_name(path.name + ".tmp")
        save_file(kept, temporary)
        temporary.replace(path)
