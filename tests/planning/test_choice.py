"""The published laws, and what a budget or a deadline allows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raypretrain.errors import InputError
from raypretrain.models.config import PRESETS
from raypretrain.planning.choice import choose, options, parse_duration
from raypretrain.planning.hardware import GPUS
from raypretrain.planning.law import CHINCHILLA, last_epoch_worth, smaller_models, worth_of
from raypretrain.planning.layout import Layout
from raypretrain.planning.memory import fits
from raypretrain.planning.money import Prices
from raypretrain.planning.plan import Job, Machine
from raypretrain.planning.wholerun import Rhythm
from raypretrain.training.planned import network_of

DAY = 86_400.0
JOB = Job(
    network=network_of(replace(PRESETS["llama-1b"], vocabulary=128_256, max_length=4096)),
    layout=Layout(workers=1, zero=1, micro_batch=1, length=4096),
    global_batch=1024,
    tokens=26_000_000_000,
    rhythm=Rhythm(steps=6200, evaluate_every=620, checkpoint_every=0, evaluation_share=0.1),
)
MACHINE = Machine(gpu=GPUS["h100"], number=8, prices=Prices(gpu_hour=2.5))


def test_chinchillas_own_budget_is_best_spent_at_about_20_tokens_a_parameter() -> None:
    parameters, tokens = CHINCHILLA.optimal(5.76e23)
    assert 15 < tokens / parameters < 30
    assert 6 * parameters * tokens == pytest.approx(5.76e23)
    for size in (0.8 * parameters, 1.25 * parameters):
        assert CHINCHILLA.loss(size, 5.76e23 / 6 / size) > CHINCHILLA.loss(parameters, tokens)


def test_smaller_models_reach_the_same_loss_with_more_training_and_pay_by_inference() -> None:
    best, tokens = CHINCHILLA.optimal(1e22)
    found = smaller_models(1e22)
    assert len(found) == 3
    for one in found:
        assert CHINCHILLA.loss(one.parameters, one.tokens) == pytest.approx(CHINCHILLA.loss(best, tokens))
        in_all = 6 * one.parameters * one.tokens + 2 * one.parameters * one.pays_from
        assert in_all == pytest.approx(1e22 + 2 * best * one.pays_from)
    assert CHINCHILLA.tokens_for(1e6, 1.9) == float("inf")


def test_repeated_text_is_worth_less_and_less() -> None:
    assert worth_of(100.0, 200.0) == 100
    assert worth_of(400.0, 100.0) == pytest.approx(373, abs=3)  # 4 epochs are nearly as good as new text
    assert worth_of(1e6, 100.0) == pytest.approx(100 * 16.39)  # and no number of them is worth more than this
    assert last_epoch_worth(1) == 1
    assert last_epoch_worth(16.39) == pytest.approx(1 / 2.71828, abs=1e-4)


def test_everything_offered_fits_and_keeps_the_limits() -> None:
    for option in options(JOB, MACHINE):
        assert fits(JOB.network, option.made.layout, MACHINE.gpu.memory)
        assert option.made.layout.tokens_per_step == JOB.global_batch * 4096
    found = choose(JOB, MACHINE, budget=5_000, deadline=2 * DAY)
    for option in found.values():
        assert option.dollars <= 5_000
        assert option.seconds <= 2 * DAY
    assert found["cheapest"].dollars <= found["fastest"].dollars
    assert found["fastest"].seconds <= found["cheapest"].seconds


def test_a_shorter_deadline_takes_more_gpus() -> None:
    slow, fast = (choose(JOB, MACHINE, None, days * DAY)["cheapest"].machine.number for days in (60, 0.5))
    assert fast > slow


@pytest.mark.parametrize(
    ("budget", "deadline", "said"),
    [
        (1.0, None, "--budget: cannot be kept; the cheapest is "),
        (None, 60.0, "--deadline: cannot be kept; the cheapest is "),
        (-5.0, None, "--budget: must be greater than 0"),
    ],
)
def test_what_is_impossible_is_one_line_that_says_what_is_possible(
    budget: float | None, deadline: float | None, said: str
) -> None:
    with pytest.raises(InputError) as error:
        choose(JOB, MACHINE, budget, deadline)
    assert str(error.value).startswith(said)


def test_limits_that_can_be_kept_one_at_a_time_only() -> None:
    every = list(options(JOB, MACHINE))
    cheapest, fastest = min(o.dollars for o in every), min(o.seconds for o in every)
    with pytest.raises(InputError, match="--budget and --deadline: cannot be kept"):
        choose(JOB, MACHINE, 1.001 * cheapest, 1.001 * fastest)


def test_a_model_that_fits_nowhere() -> None:
    huge = replace(
        JOB, network=network_of(replace(PRESETS["llama-405b"], vocabulary=128_256)), global_batch=8
    )
    with pytest.raises(InputError, match="fits on no number of h100"):
        choose(huge, MACHINE, None, 30 * DAY)


def test_durations() -> None:
    assert [parse_duration(text) for text in ("90min", "12h", "5d", "2w")] == [
        5400,
        43_200,
        5 * DAY,
        14 * DAY,
    ]
    for wrong in ("5", "d", "-3h", "soon", "nand"):
        with pytest.raises(InputError, match="is no time"):
            parse_duration(wrong)
