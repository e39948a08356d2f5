"""Trials in less memory: in bf16, with fp32 where it matters; and with activations that are computed again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_kinds import KINDS, write_kind

from raypretrain.config import validate
from raypretrain.errors import RecipeError
from raypretrain.finetuning.adapt import AdaptConfig
from raypretrain.finetuning.finetune import finetune
from raypretrain.finetuning.head import FeatureCache
from raypretrain.finetuning.predict import Predictor
from raypretrain.finetuning.recipe import FinetuneRecipe, TrialCompute
from raypretrain.finetuning.train import Masters
from raypretrain.finetuning.trial import RunningTrial, run_trial
from raypretrain.finetuning.work import prepare


def recipe_of(folder: Path, base: Path, kind: str, precision: str | None, **adapt: Any) -> FinetuneRecipe:
    values = {
        "run": {"folder": str(folder / "run")},
        "base": {"path": str(base)},
        "tasks": [write_kind(folder, kind)],
        "adapt": {"length": 64, "epochs": 2, "learning_rate": 2e-3} | adapt,
        "compute": {"precision": precision} if precision else {},
    }
    return validate(values, FinetuneRecipe, folder=folder, where="recipe.yaml")


def running(folder: Path, base: Path, kind: str, precision: str | None, **adapt: Any) -> RunningTrial:
    recipe = recipe_of(folder, base, kind, precision, **adapt)
    work = prepare(recipe, [recipe.adapt])
    [trial] = work.trials
    tokens = work.tokens([(kind, trial.adapt)])[kind, trial.length]
    return RunningTrial(work.start(), tokens, trial.adapt, FeatureCache())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_scores_nearly_as_in_fp32(kind, base, tmp_path) -> None:
    found = []
    for precision in ("fp32", "bf16"):
        (folder := tmp_path / precision).mkdir()
        recipe = recipe_of(folder, base, kind, precision)
        work = prepare(recipe, [recipe.adapt])
        [trial] = work.trials
        tokens = work.tokens([(kind, trial.adapt)])[kind, trial.length]
        found.append(run_trial(work.start(), tokens, trial.adapt, work.trial_folder(trial)))
    assert found[0]["train_loss"] != found[1]["train_loss"]
    for key in ("train_loss", "validation_loss"):
        if key in found[0]:
            assert found[1][key] == pytest.approx(found[0][key], rel=0.05, abs=0.02), key


@pytest.mark.parametrize("way", ["full", "lora", "head"])
def test_what_is_small_stays_in_fp32(way, base, tmp_path) -> None:
    trial = running(tmp_path, base, "classify", "bf16", way=way)
    model: Any = trial.model
    kept = {name for name, weight in model.named_parameters() if weight.dtype == torch.float32}
    assert "score.weight" in kept
    assert all(name == "score.weight" or ".lora_" in name for name in kept)
    assert any(".lora_" in name for name in kept) == (way == "lora")
    if way == "full":
        moved = [weight for group in trial.begun().optimizer.param_groups for weight in group["params"]]
        assert {weight.dtype for weight in moved} == {torch.float32}
    next(trial.epochs())
    assert trial.outputs("validation")[0].dtype.name == "float32"


def test_steps_that_are_too_small_for_16_bits_add_up(base, tmp_path) -> None:
    trial = running(tmp_path, base, "classify", "bf16", learning_rate=1e-5, epochs=6, weight_decay=0)
    steps, model = trial.begun(), trial.model
    weight = dict(model.named_parameters())["network.blocks.0.attention.query.weight"]
    first, master = weight.detach().clone(), steps.masters.of(weight)
    assert torch.equal(master, first.float())
    one = trial.train.lengths.argsort()[:16]
    steps.set_share(1.0)
    for step in range(2):  # the head begins at zero, so the first step moves nothing else
        steps.take(one, step)
    # A step of Adam is as long as the rate: 1e-5, and what is about 0.2 in size is known to 1e-3 in bf16.
    assert 0 < (master - first.float()).abs().max() < 2e-5
    assert (weight != first).float().mean() < 0.1
    for _ in trial.epochs():
        pass
    assert (weight != first).float().mean() > 0.01
    assert torch.equal(weight, master.to(torch.bfloat16))


def test_the_anchor_pulls_what_the_optimizer_moves(base, tmp_path) -> None:
    trial = running(tmp_path, base, "classify", "bf16", anchor=500.0, epochs=1)
    weight = dict(trial.model.named_parameters())["network.blocks.0.attention.query.weight"]
    master, first = trial.begun().masters.of(weight), weight.detach().clone()
    for _ in trial.epochs():
        pass
    held = (master - first.float()).abs().max()
    (folder := tmp_path / "free").mkdir()
    free = running(folder, base, "classify", "bf16", epochs=1)
    weight = dict(free.model.named_parameters())["network.blocks.0.attention.query.weight"]
    for _ in free.epochs():
        pass
    assert held < 0.7 * (weight.float() - first.float()).abs().max()


def test_what_is_released_is_what_was_measured(base, tmp_path) -> None:
    [row] = finetune(recipe_of(tmp_path, base, "classify", "bf16", epochs=6))["tasks"].values()
    rows = [json.loads(line) for line in (tmp_path / "classify-test.jsonl").open(encoding="utf-8")]
    said = Predictor(row["model"])([each["text"] for each in rows])
    right = sum(a["label"] == b["label"] for a, b in zip(said, rows, strict=True)) / len(rows)
    assert right == pytest.approx(row["test_accuracy"], abs=0.051)  # two texts of forty may be on the edge
    state = load_file(Path(row["model"]) / "model.safetensors")
    body = {name: w for name, w in state.items() if name.startswith("model.layers.0")}
    assert all(torch.equal(w, w.to(torch.bfloat16).to(w.dtype)) for w in body.values())


def test_a_trial_in_bf16_is_another_trial(base, tmp_path) -> None:
    names = set()
    for precision in (None, "fp32", "bf16"):
        recipe = recipe_of(tmp_path, base, "classify", precision)
        names |= {trial.id for trial in prepare(recipe, [recipe.adapt]).trials}
    assert len(names) == 2


def test_the_default_is_that_of_the_device() -> None:
    assert TrialCompute().computes_in == "fp32"
    assert TrialCompute(gpus_per_trial=0.5).computes_in == "bf16"
    assert TrialCompute(gpus_per_trial=1, precision="fp32").computes_in == "fp32"


def test_an_anchor_and_several_workers_want_fp32() -> None:
    compute = TrialCompute(workers_per_trial=2, zero=0, precision="bf16")
    compute.refuse_unshared(AdaptConfig())
    with pytest.raises(ValueError, match=r"set compute\.precision: fp32, or take one worker"):
        compute.refuse_unshared(AdaptConfig(anchor=1.0))


def test_a_precision_that_there_is_not_is_one_line(base, tmp_path) -> None:
    with pytest.raises(RecipeError, match=r"compute\.precision"):
        recipe_of(tmp_path, base, "classify", "fp8")


def test_masters_are_of_what_is_trained_in_16_bits_alone() -> None:
    weights = [torch.nn.Parameter(torch.ones(2, dtype=dtype)) for dtype in (torch.bfloat16, torch.float32)]
    frozen = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16), requires_grad=False)
    masters = Masters([*weights, frozen])
    assert masters.of(weights[0]) is not weights[0]
    assert masters.weight_of(masters.of(weights[0])) is weights[0]
    assert masters.of(weights[1]) is weights[1]
    assert masters.of(frozen) is frozen


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("way", ["full", "lora"])
def test_activations_that_are_computed_again_change_no_number(way, precision, base, tmp_path) -> None:
    adapt = {"way": way} | ({"lora": {"dropout": 0.3}} if way == "lora" else {})
    found, kept = [], []
    for checkpointing in ("none", "full"):
        (folder := tmp_path / checkpointing).mkdir()
        recipe = recipe_of(folder, base, "classify", precision, **adapt)
        compute = recipe.compute.model_copy(update={"gradient_checkpointing": checkpointing})
        work = prepare(recipe.model_copy(update={"compute": compute}), [recipe.adapt])
        [trial] = work.trials
        tokens = work.tokens([("classify", trial.adapt)])["classify", trial.length]
        row = run_trial(work.start(), tokens, trial.adapt, work.trial_folder(trial))
        found.append({k: v for k, v in row.items() if k not in ("seconds", "cpu_hours", "gpu_hours")})
        kept.append(bytes_kept(RunningTrial(work.start(), tokens, trial.adapt, FeatureCache())))
    assert found[0] == found[1]
    assert kept[1] < 0.5 * kept[0]


def bytes_kept(trial: RunningTrial) -> int:
    """What a step's forward pass keeps for the backward pass, weights aside."""
    weights = {weight.data_ptr() for weight in trial.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    batch = trial.begun().batch(trial.train.lengths.argsort()[-16:])
    trial.model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = trial.kind.loss(trial.model, batch, None)
    assert loss > 0
    return sum(kept.values())
