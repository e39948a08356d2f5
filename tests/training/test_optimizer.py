"""Which weights an optimizer learns how: decay, groups of the recipe's, and rates that go from width to width."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from raypretrain.config import validate
from raypretrain.errors import RecipeError
from raypretrain.models.config import ModelConfig
from raypretrain.models.families import LanguageModel, build
from raypretrain.training.job import narrow
from raypretrain.training.optimizer import VetoedAdamW, parameter_groups
from raypretrain.training.prepare import check_weight_groups
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.settings import WeightGroup
from raypretrain.training.training_config import TrainingConfig


def network(width: int = 32, preset: str = "llama-1m") -> LanguageModel:
    shape = ModelConfig(preset=preset, width=width, layers=2, heads=2, feed_forward=2 * width).shape(64, 32)
    made = build(shape)
    made.init_weights(0)
    return made


def settings_of(model: LanguageModel, **options: object) -> dict[str, tuple[float, float]]:
    """Name → factor of the learning rate, and weight decay."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, 0.1, **options)  # type: ignore[arg-type]
    found = {names[id(p)]: (g["rate"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert found.keys() == set(names.values())
    return found


@pytest.mark.parametrize("preset", ["llama-1m", "bert-1m", "esm2-1m"])
def test_matrices_decay_and_vectors_do_not(preset: str) -> None:
    model = network(preset=preset)
    for name, (rate, decay) in settings_of(model).items():
        assert (rate, decay) == (1.0, 0.1 if model.get_parameter(name).ndim == 2 else 0.0)


def test_the_first_group_whose_pattern_fits_counts() -> None:
    rules = (
        WeightGroup(parameters="embedding.*", learning_rate=0.5, weight_decay=0.0),
        WeightGroup(parameters="*.feed_forward.*", learning_rate=2.0),
        WeightGroup(parameters="blocks.*", learning_rate=3.0),
    )
    found = settings_of(network(), rules=rules)
    assert found["embedding.weight"] == (0.5, 0.0)
    assert found["blocks.1.feed_forward.up.weight"] == (2.0, 0.1)
    assert found["blocks.0.attention.query.weight"] == (3.0, 0.1)
    assert found["blocks.0.attention_norm.weight"] == (3.0, 0.0)
    assert found["norm.weight"] == (1.0, 0.0)


def recipe(**training: object) -> PretrainRecipe:
    values = {"corpus": {"sources": [{"path": "x.txt"}]}, "training": training}
    return validate(values, PretrainRecipe, folder=Path(), where="recipe")


def test_a_pattern_that_fits_nothing_is_refused_with_some_names() -> None:
    made = recipe(weight_groups=[{"parameters": "blocks.*"}, {"parameters": "embeding.*"}])
    with pytest.raises(RecipeError, match=r"weight_groups.1.*'embeding\.\*'.*embedding\.weight"):
        check_weight_groups(made, made.model.shape(64, 32))


@pytest.mark.parametrize("wrong", [{"parameters": ""}, {"parameters": "a", "learning_rate": -1}, {}])
def test_a_group_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        WeightGroup.model_validate(wrong)


def change_of_logits(width: int, tuned: int | None, steps: int = 4) -> float:
    """How far, root-mean-square, the logits move when the layers' matrices alone are trained with one rate."""
    torch.manual_seed(0)
    model, training = network(width), TrainingConfig(optimizer="adamw", tuned_width=tuned)
    narrow(model, tuned)
    frozen = (WeightGroup(parameters="[!b]*", learning_rate=0.0, weight_decay=0.0),)
    groups = parameter_groups(model, 0.0, rules=frozen, matrix_rate=training.matrix_rate(width))
    optimizer = VetoedAdamW(groups, lr=1.0, fused=True)
    ids = torch.randint(0, 64, (8, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = model.norm(model.hidden(ids))
    for _ in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-4 * group["rate"]
        optimizer.zero_grad()
        model(ids[:, :-1], ids[:, 1:].contiguous()).backward()
        optimizer.step()
    with torch.no_grad():
        return float((model.norm(model.hidden(ids)) - before).square().mean().sqrt())


def test_with_a_tuned_width_one_rate_moves_every_width_alike() -> None:
    """The coordinate check of Tensor Programs V, appendix D.1."""
    widths = (128, 512)
    narrow_one, wide = (change_of_logits(width, tuned=64) for width in widths)
    assert 1 / 1.45 < wide / narrow_one < 1.45, (narrow_one, wide)
    narrow_one, wide = (change_of_logits(width, tuned=None) for width in widths)
    assert wide / narrow_one > 1.7, (narrow_one, wide)
