"""The guard's judgement: losses and norms in, verdicts out."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from raypretrain.training.guard import (
    LEAST,
    WINDOW,
    Guard,
    GuardConfig,
    Verdict,
    corrupted,
    odd_ones_out,
    robust_zscore,
)

NAN, INF = math.nan, math.inf


def calm(number: int, seed: int = 0) -> list[float]:
    """Losses of a run in which nothing happens."""
    noise = random.Random(seed)
    return [3.0 - 0.001 * i + noise.gauss(0, 0.05) for i in range(number)]


def judged(config: GuardConfig, losses: list[float], norm: float = 1.0) -> list[Verdict]:
    guard = Guard(config)
    return [guard.judge(loss, norm) for loss in losses]


def actions(config: GuardConfig, losses: list[float]) -> list[str]:
    return [verdict.action for verdict in judged(config, losses)]


@pytest.mark.parametrize("loss", [NAN, INF, -INF])
def test_a_loss_that_is_no_number_is_vetoed_and_named(loss: float) -> None:
    guard = Guard(GuardConfig())
    assert guard.vetoes(loss)
    verdict = guard.judge(loss, 1.0)
    assert (verdict.action, verdict.reason) == ("skip", f"loss is {loss}")
    assert (guard.updates, guard.skipped) == (0, 1)


@pytest.mark.parametrize("norm", [NAN, INF])
def test_a_gradient_that_is_no_number_is_caught_though_the_loss_is_one(norm: float) -> None:
    guard = Guard(GuardConfig())
    assert not guard.vetoes(2.0)
    assert guard.judge(2.0, norm) == Verdict("skip", f"the gradient's norm is {norm}")
    assert guard.judge(2.0, 1.0) == Verdict("train")
    assert (guard.updates, guard.skipped) == (1, 1)


def test_asking_for_the_veto_counts_nothing() -> None:
    guard = Guard(GuardConfig(patience=1))
    for _ in range(5):
        assert guard.vetoes(NAN)
    assert guard.judge(NAN, 1.0).action == "rewind"


def test_calm_losses_are_no_spikes_and_one_far_above_them_is() -> None:
    losses = calm(400)
    assert all(verdict == Verdict("train") for verdict in judged(GuardConfig(zscore=6), losses))
    *_, last = judged(GuardConfig(spike="skip"), [*losses, 4.5])
    assert last.action == "skip"
    assert last.zscore is not None
    assert last.zscore > 8
    assert last.marks() == {"skipped": last.reason, "spike": round(last.zscore, 1)}
    assert "loss 4.5000 is" in last.reason
    assert f"above the last {WINDOW}" in last.reason


def test_an_ignored_spike_is_trained_on_and_marked() -> None:
    *_, last = judged(GuardConfig(), [*calm(200), 4.5])
    assert last.action == "train"
    assert set(last.marks()) == {"spike"}


def test_a_loss_that_falls_is_no_spike_however_far() -> None:
    assert actions(GuardConfig(spike="stop"), [*calm(100), 0.1])[-1] == "train"


def test_nothing_is_a_spike_before_enough_losses_are_known() -> None:
    assert robust_zscore(1e6, calm(LEAST - 1)) is None
    assert actions(GuardConfig(spike="stop"), [*calm(LEAST - 1), 1e6])[-1] == "train"
    assert actions(GuardConfig(spike="stop"), [*calm(LEAST), 1e6])[-1] == "stop"


def test_spikes_that_were_let_through_do_not_hide_the_next() -> None:
    losses = [*calm(100), 9.0, *calm(5), 9.0, *calm(5), 9.0]
    found = judged(GuardConfig(), losses)
    assert [i for i, verdict in enumerate(found) if verdict.zscore] == [100, 106, 112]


def test_equal_losses_do_not_make_the_least_difference_a_spike() -> None:
    assert robust_zscore(2.0 + 1e-9, [2.0] * 50) == pytest.approx(0, abs=1e-3)


def test_after_so_many_skipped_in_a_row_it_goes_back_and_then_stops() -> None:
    config = GuardConfig(patience=3)
    found = judged(config, [*calm(5), NAN, NAN, *calm(1), *[NAN] * 6])
    names = [verdict.action for verdict in found]
    assert names[5:8] == ["skip", "skip", "train"]
    assert names[8:] == ["skip", "skip", "rewind", "skip", "skip", "stop"]
    assert found[-1].reason == "loss is nan"
    assert found[-1].history == "3 steps in a row since the last rewind"


def test_after_a_step_that_trains_it_may_go_back_again() -> None:
    assert actions(GuardConfig(patience=1), [NAN, 2.0, NAN, NAN]) == ["rewind", "train", "rewind", "stop"]


def test_the_policies_of_the_recipe_hold() -> None:
    assert actions(GuardConfig(non_finite="stop"), [2.0, NAN]) == ["train", "stop"]
    assert actions(GuardConfig(non_finite="rewind"), [2.0, NAN, NAN, 2.0, NAN]) == [
        "train", "rewind", "skip", "train", "rewind"
    ]  # fmt: skip
    assert actions(GuardConfig(spike="rewind"), [*calm(50), 30.0])[-1] == "rewind"


def test_updates_count_moves_of_the_weights_and_a_rewind_takes_them_back() -> None:
    guard = Guard(GuardConfig(patience=1))
    for loss in (2.0, 2.0, NAN):
        guard.judge(loss, 1.0)
    guard.rewound(1)
    guard.judge(2.0, 1.0)
    assert (guard.updates, guard.skipped) == (2, 1)


@pytest.mark.parametrize("cut", range(0, 300, 7))
def test_a_guard_made_anew_from_the_metrics_decides_as_the_first(cut: int) -> None:
    noise = random.Random(5)
    losses = [NAN if noise.random() < 0.3 else 2 + noise.gauss(0, 0.1) for _ in range(300)]
    losses = [30.0 if noise.random() < 0.05 else loss for loss in losses]
    config = GuardConfig(spike="skip", patience=3)
    rows: list[dict[str, Any]] = []

    def go_on(guard: Guard, losses: list[float]) -> list[Verdict]:
        found = []
        for loss in losses:
            verdict = guard.judge(loss, 1.0)
            marks = verdict.marks()
            if verdict.action == "rewind":
                guard.rewound(guard.updates // 2)
                marks["rewound_to"] = 1
            rows.append({"loss": loss if math.isfinite(loss) else None, "updates": guard.updates, **marks})
            found.append(verdict)
        return found

    whole = go_on(Guard(config), losses)
    updates = rows[cut - 1]["updates"] if cut else 0
    again = Guard.after(config, rows[:cut], updates)
    last = rows[-1]["updates"]
    assert go_on(again, losses[cut:]) == whole[cut:]
    assert again.updates == last
    assert again.skipped == sum(verdict.action != "train" for verdict in whole)


@pytest.mark.parametrize(
    ("fingerprints", "odd"),
    [([5], []), ([5, 5, 5], []), ([0, 0], []), ([5, 7], [0, 1]), ([5, 7, 5], [1]), ([1, 5, 5, 2, 5], [0, 3]),
     ([1, 1, 2, 2], [0, 1, 2, 3])],
)  # fmt: skip
def test_the_worker_in_the_minority_is_the_odd_one(fingerprints: list[int], odd: list[int]) -> None:
    assert odd_ones_out(fingerprints) == odd


def test_the_line_says_which_worker_where_or_that_it_cannot_be_told() -> None:
    line = str(corrupted("RUN", 300, [1], ["a", "b", "c"]))
    assert "worker 1 on b are not those of the others at step 300" in line
    line = str(corrupted("RUN", 300, [0, 1], ["a", "b"]))
    assert "worker 0 on a, worker 1 on b differ" in line
    assert "cannot be told" in line
