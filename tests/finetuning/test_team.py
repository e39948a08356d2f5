"""What workers of a trial take, and which trials they cannot share."""

from __future__ import annotations

import pytest
from small_kinds import write_kind

from raypretrain.errors import InputError, RecipeError
from raypretrain.finetuning.finetune import finetune
from raypretrain.finetuning.forecast import forecast
from raypretrain.finetuning.kinds.embed import Embed
from raypretrain.finetuning.recipe import TrialCompute
from raypretrain.finetuning.team import ALONE, Team
from raypretrain.finetuning.work import prepare
from raypretrain.planning.hardware import GPUS
from raypretrain.planning.money import Prices


def test_all_parts_are_taken_and_all_workers_take_as_many():
    parts = list(range(7))
    taken = [Team(rank, 3).own(parts) for rank in range(3)]
    assert taken == [[0, 3, 6], [1, 4, 6], [2, 5, 6]]
    assert ALONE.own(parts) == parts
    assert Team(2, 3).own([]) == []


def test_one_process_agrees_with_itself():
    assert ALONE.everyone("a") == ["a"]
    assert ALONE.first("a") == "a"
    assert ALONE.total(2.5) == 2.5


def test_workers_share_the_cpus_and_have_a_gpu_each():
    assert TrialCompute(cpus_per_trial=3, workers_per_trial=2).of_a_worker == (1.5, 0)
    assert TrialCompute(gpus_per_trial=4, workers_per_trial=4).of_a_worker == (0.25, 1)
    assert TrialCompute(gpus_per_trial=0.25).of_a_worker == (1, 0.25)


@pytest.mark.parametrize(
    ("compute", "adapt", "said"),
    [
        (
            {},
            {"batch": 1},
            "2 workers (compute.workers_per_trial) cannot share a batch of 1; raise adapt.batch",
        ),
        ({}, {"batch": {"grid": [16, 1]}}, "cannot share a batch of 1"),
        ({}, {"anchor": 1.0}, "zero: 1 keeps them in parts; set compute.zero: 0"),
        ({"gpus_per_trial": 1}, {}, "2 workers take a GPU each: set gpus_per_trial to 2, or to 0, not 1"),
        ({"gpus_per_trial": 0.5}, {}, "not 0.5"),
        ({"zero": 4}, {}, "compute.zero"),
        ({"workers_per_trial": 0}, {}, "compute.workers_per_trial"),
    ],
)
def test_what_workers_cannot_share_is_refused_in_a_line(compute, adapt, said, recipe):
    with pytest.raises(RecipeError) as refused:
        recipe(compute={"workers_per_trial": 2} | compute, adapt=adapt)
    assert said in str(refused.value)


@pytest.mark.parametrize("adapt", [{"way": "head", "batch": 1}, {"anchor": 1.0, "init": "scratch"}])
def test_what_has_no_effect_is_not_refused(adapt, recipe):
    recipe(compute={"workers_per_trial": 2}, adapt=adapt)


def test_an_anchor_goes_with_zero_0(recipe):
    recipe(compute={"workers_per_trial": 2, "zero": 0}, adapt={"anchor": 1.0})


def test_a_kind_that_does_not_say_that_it_can_be_shared_is_not(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(Embed, "divisible", False)
    task = write_kind(tmp_path, "embed")
    with pytest.raises(
        RecipeError,
        match=r"^compute\.workers_per_trial: task 'embed': 2 workers cannot share a batch of embed.*set it to 1$",
    ):
        prepare(recipe(task=task, compute={"workers_per_trial": 2}), [])


def test_one_process_does_not_play_several(recipe):
    with pytest.raises(
        RecipeError, match=r"^compute\.workers_per_trial: is for searches.*raypretrain search"
    ):
        finetune(recipe(compute={"workers_per_trial": 2}))


def test_the_plan_of_a_search_gives_each_worker_a_gpu(recipe):
    alone = forecast(recipe(), GPUS["h100"], 4, Prices())
    shared = forecast(recipe(compute={"workers_per_trial": 2, "zero": 2}), GPUS["h100"], 5, Prices())
    assert alone["gpu"]["number"] == 4
    assert shared["gpu"]["number"] == 4  # two trials at a time, and a GPU is left
    assert (alone["trials"]["workers"], shared["trials"]["workers"]) == (1, 2)
    assert (shared["layout"]["workers"], shared["layout"]["zero"], shared["layout"]["micro_batch"]) == (
        2,
        2,
        8,
    )
    with pytest.raises(InputError, match="--gpus: 1 GPUs are fewer than the 2 workers of a trial"):
        forecast(recipe(compute={"workers_per_trial": 2}), GPUS["h100"], 1, Prices())
