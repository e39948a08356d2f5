"""Two workers that share a trial, without Ray: their numbers are those of one process."""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from process_group import leave, start_workers
from real_text import reviews
from safetensors.torch import load_file
from small_base import write_base
from small_kinds import write_kind

from raypretrain.config import validate
from raypretrain.finetuning.head import FeatureCache
from raypretrain.finetuning.recipe import FinetuneRecipe
from raypretrain.finetuning.results import Goal
from raypretrain.finetuning.team import Team
from raypretrain.finetuning.trial import run_trial, trial_lines
from raypretrain.finetuning.work import prepare

pytestmark = pytest.mark.slow

# 49 examples are 3 batches of 16 and one of a single example, of which the second worker has none.
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "classes": ("classify", 1, {"class_weights": "balanced", "layer_decay": 0.7}),
    "anchor": ("classify", 0, {"anchor": 100.0, "blend": [0.5, 1.0], "top_layers": 1}),
    "labels": ("label", 2, {"warm_head": True}),
    "number": ("regress", 1, {"replay": 0.1, "replay_weight": 0.5}),
    "tags": ("tag", 2, {"class_weights": "balanced", "epochs": 3, "patience": 1}),
    "adapters": ("tag", 3, {"way": "lora", "lora": {"rank": 4, "dora": True}}),
    "best epoch": ("classify", 3, {"epochs": 3, "patience": 1, "blend": [0.5, 1.0]}),
    "answers": ("generate", 3, {"replay": 0.1, "length": 40}),
    "preferences": ("prefer", 3, {}),
    "preferences by adapters": ("prefer", 1, {"way": "lora"}),
    "pairs": ("embed", 1, {"replay": 0.1}),
    "pairs, in parts": ("embed", 3, {"way": "lora"}),
    "bf16": ("classify", 1, {}),
    "bf16, in parts": ("tag", 3, {"way": "lora"}),
}


def main(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo")
    for path in sorted(folder.glob("*.pickle")):
        zero, given = pickle.loads(path.read_bytes())
        own = folder / "two" / path.stem
        lines = trial_lines(*given[:3], own, given[3], FeatureCache(), Team(rank, 2, zero, "cpu"))
        assert all(line["train_loss"] > 0 for line, _ in lines)
    leave()


@pytest.fixture(scope="module")
def wide_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the base, but of width 256: ZeRO 3 leaves matrices of fewer than 100,000 weights whole."""
    sizes = {"width": 256, "feed_forward": 512, "initializer_range": 0.05}
    return write_base(tmp_path_factory.mktemp("wide"), **sizes)


@pytest.fixture(scope="module")
def both(base: Path, wide_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``one/CASE`` and ``two/CASE``: what a process, and two, made of each case."""
    folder = tmp_path_factory.mktemp("both")
    text = folder / "text.jsonl"
    text.write_text("".join(json.dumps({"text": t}) + "\n" for t in reviews(150)), encoding="utf-8")
    for name, (kind, zero, adapt) in CASES.items():
        values = {
            "run": {"folder": str(folder / "run" / name)},
            "base": {
                "path": str(wide_base if zero == 3 else base),
                "text": {"path": str(text), "held_out": 0.2, "sequences": 8, "length": 48},
            },
            "tasks": [write_kind(folder, kind)],
            "adapt": {"length": 64, "epochs": 1, "learning_rate": 1e-3, "examples": 49} | adapt,
            "compute": {
                "workers_per_trial": 2,
                "zero": zero,
                "precision": name[:4] if "bf16" in name else "fp32",
            },
        }
        recipe = validate(values, FinetuneRecipe, folder=folder, where="recipe.yaml")
        work = prepare(recipe, [recipe.adapt])
        [trial] = work.trials
        tokens = work.tokens([(kind, trial.adapt)])
        # As if a larger loss were better: then the first epoch is the best, and its weights are gone back to.
        goal = Goal("loss", True) if recipe.adapt.patience else work.goals[kind]
        given = (work.start(), tokens[kind, trial.length], trial.adapt, goal)
        (folder / f"{name}.pickle").write_bytes(pickle.dumps((zero, given)))
        run_trial(*given[:3], folder / "one" / name, goal=given[3])
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        start_workers(__file__, folder, 2)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_workers_get_what_one_gets(case: str, both: Path) -> None:
    one, two, rough = both / "one" / case, both / "two" / case, "bf16" in case
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in two.iterdir())
    rows = [_rows(folder / "metrics.jsonl") for folder in (one, two)]
    assert len(rows[0]) == len(rows[1])
    for alone, shared in zip(*rows, strict=True):
        assert alone.keys() == shared.keys()
        assert shared["train_loss"] == pytest.approx(alone["train_loss"], rel=2e-2 if rough else 1e-5)
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, two)]
    assert results[0].keys() == results[1].keys()
    assert results[1]["epochs"] == (2 if "patience" in CASES[case][2] else 1)
    for name, value in results[0].items():
        if name not in ("seconds", "cpu_hours", "gpu_hours"):
            rough_or_not = {"rel": 5e-2, "abs": 5e-2} if rough else {"rel": 1e-3, "abs": 1e-4}
            assert results[1][name] == pytest.approx(value, **rough_or_not), name
    weights = [load_file(folder / "trained.safetensors") for folder in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        # Of bf16 near 1 the last digit is 2^-8.
        assert (weights[1][name].float() - weight.float()).abs().max() < (1e-2 if rough else 1e-3), name


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
