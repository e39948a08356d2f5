"""Fault row 20, and silent corruption: real runs in which one worker computes nonsense, or holds a flipped bit."""

from __future__ import annotations

import json
import math
import signal
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import ray
import runs
import striking
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "training"))

from runs import fingerprints, metrics, train_workers, write_recipe
from striking import carried_out_by

from raypretrain.config import load_recipe
from raypretrain.errors import RunError
from raypretrain.training import worker as product
from raypretrain.training.checkpoint import committed, read_standing
from raypretrain.training.events import read_events
from raypretrain.training.guard import Guard
from raypretrain.training.pretrain import Outcome, pretrain
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.tracing import trace_step

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]

for module in (sys.modules[__name__], striking, runs):  # Ray's workers cannot import the tests
    ray.cloudpickle.register_pickle_by_value(module)


# ------------------------------------------------------------------------------- what breaks, in worker 1 alone


class Poisoned(product.Worker):
    """A worker whose first micro-batch of some steps goes wrong."""

    bad: ClassVar[dict[int, str]] = {}

    def _guard(self) -> Guard:
        self._arm(self.standing.step + 1)  # a start may go on right before a bad step
        return super()._guard()

    def log_step(self, row: dict[str, Any], data: Any) -> None:
        super().log_step(row, data)
        self._arm(row["step"] + 1)

    def _arm(self, step: int) -> None:
        how = self.bad.get(step)
        if how and self.rank == 1:
            module = self.engine._engine.module

            def once(module: Any, inputs: Any, loss: torch.Tensor) -> torch.Tensor | None:
                if not module.training:
                    return None
                hook.remove()
                if how == "gradient":
                    loss.register_hook(lambda gradient: gradient * math.inf)
                    return None
                return loss * {"loss": math.nan, "spike": 9.0}[how]

            hook = module.register_forward_hook(once)


class Flipped(product.Worker):
    """A worker in whose parameters a bit flips after a step."""

    at: int = 0

    def log_step(self, row: dict[str, Any], data: Any) -> None:
        super().log_step(row, data)
        if row["step"] == self.at and self.rank == 1:
            *_, parameter = self.engine._engine.module.parameters()
            parameter.data.view(-1).view(torch.int32)[5] ^= 1


GUARD = {"skip", "rewind", "stop", "replicas-differ"}


def guarded(folder: Path) -> list[dict[str, Any]]:
    """The events that are the guard's."""
    return [event for event in read_events(folder / "events.jsonl") if event["event"] in GUARD]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"), corpus)


def broken_run(
    recipe: Path, folder: Path, function: Any, *overrides: str, watch: Any = None
) -> tuple[Outcome, list[str]]:
    """How the run ended, and what was said."""
    said: list[str] = []

    def listen(event: dict[str, Any]) -> None:
        if "say" in event:
            said.append(event["say"])
        if watch:
            watch(event)

    loaded = load_recipe(recipe, PretrainRecipe, [f"run.folder={folder}", *overrides])
    return pretrain(loaded, listen, function=function), said


# ------------------------------------------------------------------------------------------------- row 20

SINGLE = {7: "loss", 13: "gradient", 31: "spike"}
IN_A_ROW = {23: "loss", 24: "gradient", 25: "loss"}
SPIKES = "training.guard.spike=skip"


@pytest.fixture(scope="module")
def poisoned(cluster: str, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run with single bad steps and three in a row: its folder, and what was said."""
    folder = tmp_path_factory.mktemp("runs") / "poisoned"
    function = carried_out_by(Poisoned, bad=SINGLE | IN_A_ROW)
    outcome, said = broken_run(recipe, folder, function, SPIKES)
    assert outcome.status == "finished"
    return folder, said


@pytest.mark.row(20, "NaN, infinity and a spike, alone and in a row")
def test_row_20_nonsense_is_skipped_counted_and_traced_and_three_in_a_row_go_back_past_the_batches(
    poisoned: tuple[Path, list[str]], recipe: Path, tmp_path: Path
) -> None:
    folder, said = poisoned
    rows = {row["step"]: row for row in metrics(folder)}
    assert list(rows) == list(range(1, 41))
    assert {step for step, row in rows.items() if "skipped" in row} == SINGLE.keys() | IN_A_ROW.keys()
    assert rows[7]["skipped"] == "loss is nan"
    assert rows[7]["loss"] is None
    assert rows[13]["skipped"] == "the gradient's norm is inf"
    assert "deviations above the last" in rows[31]["skipped"]
    assert rows[31]["spike"] > 8
    assert [step for step, row in rows.items() if "rewound_to" in row] == [25]
    assert rows[25]["rewound_to"] == 20
    # The schedule follows the updates: 2 are skipped before step 20, whose weights are those of 18 updates.
    assert [rows[step]["updates"] for step in (6, 7, 8, 13, 20, 22, 24, 25, 26, 40)] == [
        6, 6, 7, 11, 18, 20, 20, 18, 19, 32
    ]  # fmt: skip
    assert rows[7]["learning_rate"] == rows[8]["learning_rate"]
    assert rows[26]["learning_rate"] == rows[21]["learning_rate"]
    result = json.loads((folder / "result.json").read_text())
    assert (result["skipped_steps"], result["rewinds"], result["updates"]) == (6, 1, 32)
    assert any("step 7 is skipped: loss is nan" in line for line in said)
    assert any("going back to the weights of step 20" in line for line in said)
    events = [(event["event"], event["step"]) for event in guarded(folder)]
    assert events == [("skip", 7), ("skip", 13), ("skip", 23), ("skip", 24), ("rewind", 25), ("skip", 31)]
    traced = trace_step(folder, 7)
    assert traced["skipped"] == "loss is nan"
    assert traced["recorded"] == traced["batch_fingerprint"]
    assert trace_step(folder, 8)["skipped"] is None

    # A run that never learned from any of these batches: from step 26 on it has the same weights.
    never = dict.fromkeys(range(21, 26), "loss")
    outcome, _ = broken_run(
        recipe,
        tmp_path / "never",
        carried_out_by(Poisoned, bad=SINGLE | never),
        SPIKES,
        "training.guard.patience=9",
    )
    assert outcome.status == "finished"
    other = {row["step"]: row for row in metrics(tmp_path / "never")}
    assert fingerprints(folder) == fingerprints(tmp_path / "never")
    for key in ("loss", "grad_norm", "learning_rate", "updates"):
        assert [rows[s][key] for s in range(26, 41)] == [other[s][key] for s in range(26, 41)], key
    assert all(math.isfinite(rows[s]["loss"]) for s in rows if s not in (7, 23, 25))


@pytest.mark.row(20, "and a worker is killed between bad steps")
@pytest.mark.long
@pytest.mark.parametrize("kill_at", [9, 27, 33])
def test_a_run_that_is_killed_between_bad_steps_decides_as_one_that_was_not(
    poisoned: tuple[Path, list[str]], recipe: Path, tmp_path: Path, kill_at: int
) -> None:
    killed: list[int] = []

    def kill(event: dict[str, Any]) -> None:
        if not killed and event.get("step", {}).get("step", 0) >= kill_at:
            killed.append(event["step"]["step"])
            train_workers()[-1].send_signal(signal.SIGKILL)

    function = carried_out_by(Poisoned, bad=SINGLE | IN_A_ROW)
    folder = tmp_path / "killed"
    outcome, _ = broken_run(recipe, folder, function, SPIKES, watch=kill)
    assert outcome.status == "finished"
    assert killed
    timing = {"time", "step_seconds", "data_wait_seconds", "tokens_per_second"}
    found, wanted = (  # as text: nan is not equal to itself
        [
            json.dumps({key: value for key, value in row.items() if key not in timing})
            for row in metrics(place)
        ]
        for place in (folder, poisoned[0])
    )
    assert found == wanted


@pytest.mark.row(20, "NaN, and no checkpoint to go back to")
@pytest.mark.long
def test_without_a_checkpoint_to_go_back_to_it_stops_once_with_the_step_and_the_reason(
    cluster: str, recipe: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    function = carried_out_by(Poisoned, bad=dict.fromkeys((4, 5, 6), "loss"))
    with pytest.raises(RunError) as error:
        broken_run(recipe, folder, function, "training.steps=12")
    line = str(error.value)
    assert "stopped at step 6: loss is nan (there is no checkpoint to go back to)" in line
    assert f"raypretrain trace {folder} --step 6" in line
    assert "\n" not in line
    events = [(event["event"], event["step"]) for event in guarded(folder)]
    assert events == [("skip", 4), ("skip", 5), ("stop", 6)]  # Ray has not tried it again
    assert trace_step(folder, 6)["skipped"] == "loss is nan"
    # The guard may be told otherwise, and the same run goes on.
    outcome, _ = broken_run(recipe, folder, function, "training.steps=12", "training.guard.patience=4")
    assert outcome.status == "finished"
    assert [row["step"] for row in metrics(folder) if "skipped" in row] == [4, 5, 6]
    assert read_standing(committed(folder / "checkpoints")[0]).updates == 9


# -------------------------------------------------------------------------------------- silent corruption


@pytest.mark.row(20, "a bit flips in a worker's parameters")
@pytest.mark.parametrize(
    ("zero", "workers", "at"),
    [(0, 2, 11), (1, 3, 14), pytest.param(2, 2, 14, marks=pytest.mark.long)],
)
@pytest.mark.long
def test_a_flipped_bit_in_one_workers_parameters_stops_the_run_and_names_it(
    cluster: str, recipe: Path, tmp_path: Path, zero: int, workers: int, at: int
) -> None:
    folder = tmp_path / "run"
    overrides = [f"compute.zero={zero}", f"compute.workers={workers}", "compute.cpus_per_worker=0.3"]
    with pytest.raises(RunError) as error:
        broken_run(
            recipe, folder, carried_out_by(Flipped, at=at), *overrides, "training.guard.replicas_every=5"
        )
    line = str(error.value)
    assert "\n" not in line
    address = ray.util.get_node_ip_address()
    assert f"worker 1 on {address}" in line
    assert "at step 15" in line
    assert ("worker 0" in line) == ("cannot be told" in line) == (workers == 2)
    events = guarded(folder)
    assert [event["event"] for event in events] == ["replicas-differ"]  # once: not tried again
    assert events[0]["ranks"] == ([0, 1] if workers == 2 else [1])
    assert committed(folder / "checkpoints")[0].name == "step-00000010"
