"""Real runs with Muon, growing batches, checkpointed gradients and averaged checkpoints; and a decay branched off."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import fingerprints, metrics, run, train_workers
from safetensors.torch import load_file

from raypretrain.config import load_recipe
from raypretrain.training.checkpoint import checkpoint_folder
from raypretrain.training.fork import fork
from raypretrain.training.metrics import read_log
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.release import mean_weights
from raypretrain.training.tracing import trace_step

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]

OPTIONS = (
    "training.optimizer=muon",
    "training.batch_warmup={first: 6, steps: 8}",
    "training.weight_groups=[{parameters: 'embedding.*', learning_rate: 0.5}]",
    "training.z_loss=1e-4",
    "training.schedule={kind: wsd, warmup: 0, decay: 0.25, final: 0}",
    "training.average=2",
    "training.checkpoint={every: 5, keep: 2, keep_every: 10}",
    "training.sequence_losses=true",
    "compute.gradient_checkpointing=full",
    "training.steps=20",
)


@pytest.fixture(scope="module")
def alone(cluster: str, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("optimizing") / "alone"
    assert run(tiny_recipe, folder, *OPTIONS, "compute.workers=1").status == "finished"
    return folder


@pytest.mark.long
def test_two_workers_of_which_one_is_killed_learn_what_one_worker_learns(
    alone: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill(event: dict[str, Any]) -> None:
        if not killed and (step := event.get("step", {}).get("step", 0)) >= 7:
            killed.append(step)
            train_workers()[-1].send_signal(signal.SIGKILL)

    folder = tmp_path / "two"
    assert run(tiny_recipe, folder, *OPTIONS, watch=kill).status == "finished"
    assert killed
    assert fingerprints(folder) == fingerprints(alone)
    assert [row["loss"] for row in metrics(folder)] == pytest.approx(
        [row["loss"] for row in metrics(alone)], rel=2e-3
    )


def test_two_workers_that_share_every_sequence_learn_what_one_worker_learns(
    alone: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "shared"
    assert run(tiny_recipe, folder, *OPTIONS, "compute.sequence_workers=2").status == "finished"
    assert fingerprints(folder) == fingerprints(alone)
    for found, wanted in zip(metrics(folder), metrics(alone), strict=True):
        assert found["loss"] == pytest.approx(wanted["loss"], rel=2e-3)
    kept = [read_log(place / "sequence_losses.jsonl") for place in (folder, alone)]
    for found, wanted in zip(*kept, strict=True):
        assert found["losses"] == pytest.approx(wanted["losses"], rel=1e-2)


def test_the_first_batches_are_small_and_traced_as_they_were(alone: Path) -> None:
    rows = metrics(alone)
    assert [row["tokens"] for row in rows[:10]] == [64 * n for n in (6, 12, 18, 24, 30, 36, 42, 48, 60, 72)]
    for step, sequences in ((3, 6), (8, 6), (9, 12)):
        traced = trace_step(alone, step)
        assert len(traced["sequences"]) == sequences
        assert traced["recorded"] == traced["batch_fingerprint"]


def test_the_released_model_is_the_mean_of_the_last_checkpoints(alone: Path) -> None:
    places = [checkpoint_folder(alone / "checkpoints", step) for step in (20, 15)]
    mean = mean_weights(places)["embedding.weight"]
    assert not torch.equal(mean, mean_weights(places[:1])["embedding.weight"])
    saved = load_file(alone / "model" / "model.safetensors")["model.embed_tokens.weight"]
    torch.testing.assert_close(saved, mean)
    assert "the mean of those after steps 15, 20;" in (alone / "model" / "README.md").read_text()


def test_a_decay_is_branched_off_an_earlier_checkpoint_and_has_the_same_batches(
    alone: Path, tiny_recipe: Path
) -> None:
    shorter = ("training.steps=13", "compute.workers=1", f"run.folder={alone}")
    loaded = load_recipe(tiny_recipe, PretrainRecipe, [*OPTIONS, *shorter])
    branch = alone.parent / "branch"
    fork(loaded, branch, print, at=10)
    assert run(tiny_recipe, branch, *OPTIONS, *shorter[:2]).status == "finished"
    found, wanted = fingerprints(branch), fingerprints(alone)
    assert found == {step: wanted[step] for step in range(1, 14)}
    rates = [row["learning_rate"] for row in metrics(branch)]
    assert rates[:10] == [row["learning_rate"] for row in metrics(alone)[:10]]
    assert rates[10:] == pytest.approx([3e-3 * left / 3 for left in (2, 1, 0)])
