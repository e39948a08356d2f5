"""The loop under the guard, with weights that are one number and a world of one worker: no Ray, no DeepSpeed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from raypretrain.errors import RunError
from raypretrain.tokens.batching import BatchSizes
from raypretrain.tokens.cursor import Cursor
from raypretrain.tokens.dealer import StepRows
from raypretrain.tokens.objectives import Causal
from raypretrain.tokens.packing import Sequences
from raypretrain.training.checkpoint import Standing
from raypretrain.training.evaluation import HeldOut
from raypretrain.training.guard import Guard, GuardConfig, stopped
from raypretrain.training.length import Length
from raypretrain.training.loop import train
from raypretrain.training.microbatch import Place
from raypretrain.training.requests import Request
from raypretrain.training.training_config import TrainingConfig

STEPS, EVERY = 40, 10
PLACE = Place(0, 1, 2, torch.device("cpu"), Causal(bos=1), False, 1)


@dataclass
class World:
    """The engine and the hooks in one: what is kept of a run, and its checkpoints."""

    losses: dict[int, float]
    norms: dict[int, float] = field(default_factory=dict)
    weight: float = 1.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[tuple[int, str]] = field(default_factory=list)
    checkpoints: dict[int, tuple[float, int]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    step_now: int = 0
    replica: dict[int, list[int]] = field(default_factory=dict)

    # The engine.

    def accumulate(self, micro_batches: Any, each: Any) -> torch.Tensor:
        self.order.append("backward")
        self.step_now = int(next(iter(micro_batches)).ids[0, 0])
        return torch.tensor(self.losses.get(self.step_now, self.weight), dtype=torch.float64)

    def step(self, rate: float, *, veto: bool) -> float:
        self.order.append("update")
        norm = self.norms.get(self.step_now, 1.0)
        if not veto and math.isfinite(norm):
            self.weight = self.weight * 0.99 + 1e-3 * rate * self.step_now
        return norm

    def fingerprint(self) -> int:
        self.order.append("fingerprint")
        return 17

    # The hooks.

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        self.order.append("exchange")
        everyone = values.repeat(len(self.replica.get(self.step_now, [0])), 1)
        if self.step_now in self.replica:
            everyone[:, -1] = torch.tensor(self.replica[self.step_now])
        return everyone

    def log_step(self, row: dict[str, Any], data: StepRows) -> None:
        self.rows.append(row)

    def save_due(self, step: int) -> bool:
        return step % EVERY == 0

    def save(self, step: int, tokens: int, cursor: Cursor, updates: int, now: bool) -> None:
        assert tokens == step * 16
        self.checkpoints[step] = (self.weight, updates)

    def rewind(self, step: int, reason: str) -> Standing | None:
        if not self.checkpoints:
            return None
        back = max(self.checkpoints)
        self.weight, updates = self.checkpoints[back]
        return Standing(back, Cursor(), 0, 1, 0, "", "", "", updates)

    def refused(self, step: int, verdict: Any) -> None:
        self.refusals.append((step, verdict.action))
        if verdict.action == "stop":
            raise stopped("RUN", step, verdict.reason)

    def replicas_differ(self, step: int, ranks: list[int]) -> None:
        raise RunError(f"ranks {ranks} at step {step}")

    def request(self) -> Request:
        return Request.NOTHING

    def agreed(self, request: Request) -> None:
        assert request == Request.NOTHING

    def phase(self, name: str, step: int | None = None) -> None:
        pass


def rows_from(start: int) -> Any:
    for step in range(start + 1, STEPS + 1):
        tokens = np.full((2, 8), step, dtype=np.int32)
        begins = np.packbits(np.eye(1, 8, dtype=bool).repeat(2, axis=0), axis=1)
        filled = np.full(2, 8, dtype=np.int32)
        sequences = Sequences(tokens, begins, filled, filled[:, None])
        yield StepRows(
            sequences, np.zeros((len(sequences), 3), np.int64), Cursor(0, 0, 2 * step), [16], 14, [], {}
        )


def go(world: World, start: int = 0, **guard: Any) -> World:
    """Train from ``start`` on with what ``world`` has kept."""
    config = GuardConfig(**guard)
    training = TrainingConfig(steps=STEPS, global_batch=2, guard=config)
    length = Length(STEPS, 8, BatchSizes.all_alike(2), STEPS + 1, EVERY)
    held_out = HeldOut(np.zeros((0, 8), dtype=np.int32), 1)
    judge = Guard.after(config, world.rows, world.checkpoints[start][1] if start else 0)
    train(world, rows_from(start), start, length, training, held_out, judge, PLACE, world)  # type: ignore[arg-type]
    return world


def figures(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    timing = {"step_seconds", "data_wait_seconds", "tokens_per_second"}
    return [{key: str(value) for key, value in row.items() if key not in timing} for row in rows]


def test_without_anything_wrong_updates_are_steps_and_nothing_is_marked() -> None:
    world = go(World({}))
    assert [row["updates"] for row in world.rows] == list(range(1, STEPS + 1))
    assert all(not {"skipped", "spike", "rewound_to"} & row.keys() for row in world.rows)
    assert world.refusals == []
    assert sorted(world.checkpoints) == [10, 20, 30, 40]


def test_everyone_learns_the_figures_before_the_weights_move() -> None:
    world = go(World({}), replicas_every=0)
    assert world.order == ["backward", "exchange", "update"] * STEPS


def test_parameters_are_compared_as_often_as_asked_and_before_each_checkpoint() -> None:
    world = go(World({}), replicas_every=7)
    compared = [i for i in range(len(world.order)) if world.order[i] == "fingerprint"]
    assert all(world.order[i - 1 : i + 2] == ["backward", "fingerprint", "exchange"] for i in compared)
    assert len(compared) == len({7, 14, 21, 28, 35, 10, 20, 30, 40})


def test_a_worker_with_other_parameters_ends_the_run_before_the_update() -> None:
    world = World({}, replica={20: [5, 5, 6]})
    with pytest.raises(RunError, match=r"ranks \[2\] at step 20"):
        go(world)
    assert world.order[-1] == "exchange"
    assert sorted(world.checkpoints) == [10]


def test_a_skipped_step_moves_neither_weights_nor_schedule() -> None:
    calm = go(World({})).rows
    world = go(World({7: math.nan}, norms={12: math.inf}))
    assert [row["step"] for row in world.rows if "skipped" in row] == [7, 12]
    rates = [row["learning_rate"] for row in world.rows if "skipped" not in row]
    assert rates == [row["learning_rate"] for row in calm[: STEPS - 2]]
    assert world.rows[-1]["updates"] == STEPS - 2
    assert world.checkpoints[40] == (world.weight, STEPS - 2)


def test_going_back_takes_up_the_weights_and_goes_on_past_the_batches() -> None:
    bad = dict.fromkeys((24, 25, 26), math.nan)
    world = go(World(bad))
    assert world.refusals == [(24, "skip"), (25, "skip"), (26, "rewind")]
    assert world.rows[25]["rewound_to"] == 20
    assert world.checkpoints[26] == world.checkpoints[20]
    never = go(World(dict.fromkeys(range(21, 27), math.nan)), patience=99)
    assert figures(world.rows[26:]) == figures(never.rows[26:])


def test_without_a_checkpoint_going_back_becomes_stopping_after_the_step_is_logged() -> None:
    world = World({5: math.inf})
    with pytest.raises(RunError, match="stopped at step 5: loss is inf"):
        go(world, non_finite="rewind")
    assert world.rows[-1]["step"] == 5
    assert "rewound_to" not in world.rows[-1]


@pytest.mark.parametrize("start", [10, 20, 26, 30])
def test_from_any_checkpoint_it_goes_on_as_if_it_had_not_been_interrupted(start: int) -> None:
    bad = {7: math.nan, 19: math.nan, 22: 50.0, 33: 50.0} | dict.fromkeys((24, 25, 26), math.nan)
    whole = go(World(bad), spike="skip")
    weight, _ = whole.checkpoints[start]
    kept = {step: saved for step, saved in whole.checkpoints.items() if step <= start}
    again = World(bad, weight=weight, rows=whole.rows[:start], checkpoints=kept)
    go(again, start, spike="skip")
    assert figures(again.rows) == figures(whole.rows)
    assert again.checkpoints == whole.checkpoints
