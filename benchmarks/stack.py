"""The whole stack and a bare loop in turn: what ``step.py`` has its first row from.

The stack (Ray Data, Ray Train, DeepSpeed, our loop; one worker, one thread) and the bare PyTorch loop take
turns in the same process, a step each, so that a busy moment of the machine hits both. The stream works on
the other core meanwhile, as it does in a real run.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from peers import ours
from sizes import SIZES, work_of
from text import write_corpus

from raypretrain.config import validate
from raypretrain.tokens.dealer import StepRows
from raypretrain.training.job import Job
from raypretrain.training.pretrain import pretrain
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.worker import Worker

WARM_UP = 2


class TakesTurns(Worker):
    """A worker that runs a step of the bare loop after each of its own."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        preset = job.recipe.model.preset
        assert preset is not None
        self.bare = ours(work_of(preset, "fp32"), "eager").step
        self.seconds: list[tuple[float, float]] = []

    def log_step(self, row: dict[str, Any], data: StepRows) -> None:
        super().log_step(row, data)
        begun = time.perf_counter()
        self.bare()
        self.seconds.append((row["step_seconds"], time.perf_counter() - begun))
        (self.folder.path / "turns.json").write_text(json.dumps(self.seconds))


def turns(config: dict[str, Job]) -> None:
    """The training function of the benchmark."""
    TakesTurns(config["job"]).run()


def stack_and_bare(preset: str, steps: int, sample: int) -> tuple[float, float]:
    """Tokens per second of the whole stack and of the bare loop: medians.

    The tokenizer is trained on ``sample`` bytes; the corpus has three times as many.
    """
    size = SIZES[preset]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_corpus(folder / "corpus", 3 * sample)
        values = {
            "run": {"folder": str(folder / "run")},
            "corpus": {"sources": [{"path": str(folder / "corpus")}]},
            "tokenizer": {"vocabulary": size.vocabulary, "sample": sample},
            "sequences": {"length": size.length, "window": 1_000_000},
            "model": {"preset": preset},
            "training": {
                "optimizer": "adamw",  # as the bare loop has
                "steps": WARM_UP + steps,
                "global_batch": size.batch,
                "evaluation": {"sequences": 8, "every": 10**6},
                "checkpoint": {"every": 10**6},
            },
            # One worker has nobody to share its optimizer with, nor has the bare loop.
            "compute": {
                "workers": 1,
                "zero": 0,
                "device": "cpu",
                "micro_batch": size.batch,
                "cpus_per_worker": 1,
            },
        }
        recipe = validate(values, PretrainRecipe, folder=folder, where="benchmark")
        pretrain(recipe, lambda event: None, function=turns)
        seconds = json.loads((folder / "run" / "turns.json").read_text())[WARM_UP:]
    stack, bare = (statistics.median(column) for column in zip(*seconds, strict=True))
    return size.batch * size.length / stack, size.batch * size.length / bare
