"""Whole runs with real Ray, real DeepSpeed and real text: undisturbed, killed, interrupted."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import fingerprints, metrics, run, train_workers

from raypretrain.errors import RaypretrainError, RecipeError
from raypretrain.training.checkpoint import committed, problem_of
from raypretrain.training.metrics import read_log

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Path) -> Path:
    return tiny_recipe


def test_every_step_has_all_its_metrics(undisturbed: Path) -> None:
    rows = metrics(undisturbed)
    assert len(rows) == 40
    wanted = {
        "step", "loss", "tokens", "learning_rate", "grad_norm", "step_seconds", "data_wait_seconds",
        "tokens_per_second", "batch_fingerprint",
    }  # fmt: skip
    assert all(wanted <= row.keys() for row in rows)
    assert rows[-1]["tokens"] == 40 * 12 * 64
    assert len({row["batch_fingerprint"] for row in rows}) == 40


def test_the_model_learns_and_held_out_loss_is_measured_from_step_0(undisturbed: Path) -> None:
    evaluations = read_log(undisturbed / "evaluations.jsonl")
    assert [row["step"] for row in evaluations] == [0, 20, 40]
    assert evaluations[0]["held_out_loss"] == pytest.approx(6.24, abs=0.15)  # log(512), as untrained
    assert evaluations[-1]["held_out_loss"] < evaluations[0]["held_out_loss"] - 0.5
    assert 1 < evaluations[-1]["held_out_bits_per_byte"] < evaluations[0]["held_out_bits_per_byte"]


def test_only_the_last_checkpoints_stay_and_they_verify(undisturbed: Path) -> None:
    found = committed(undisturbed / "checkpoints")
    assert [folder.name for folder in found] == ["step-00000040", "step-00000030"]
    assert [problem_of(folder) for folder in found] == [None, None]


def test_transformers_loads_the_released_model_with_the_loss_that_was_logged(undisturbed: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from raypretrain.training.evaluation import HeldOut

    model = AutoModelForCausalLM.from_pretrained(undisturbed / "model", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(undisturbed / "model")
    assert tokenizer.decode(
        tokenizer("This film,  it\twas\nfine.").input_ids, skip_special_tokens=True
    ).strip()
    rows = torch.from_numpy(HeldOut.load(undisturbed / "corpus" / "held_out.parquet").tokens).long()
    with torch.no_grad():
        loss = model(rows, labels=rows).loss.item()
    logged = read_log(undisturbed / "evaluations.jsonl")[-1]["held_out_loss"]
    assert loss == pytest.approx(logged, abs=1e-4)


def test_a_finished_run_says_so_and_trains_no_more(undisturbed: Path, recipe: Path) -> None:
    before = (undisturbed / "metrics.jsonl").read_bytes()
    outcome = run(recipe, undisturbed)
    assert (outcome.status, outcome.step) == ("finished", 40)
    assert (undisturbed / "metrics.jsonl").read_bytes() == before


def test_a_changed_recipe_is_refused_with_the_keys_that_differ(undisturbed: Path, recipe: Path) -> None:
    with pytest.raises(RecipeError) as error:
        run(recipe, undisturbed, "training.learning_rate=0.5", "run.seed=4")
    assert "run.seed: 3 → 4" in str(error.value)
    assert "training.learning_rate: 0.003 → 0.5" in str(error.value)


def test_a_step_is_traced_with_the_loss_of_each_sequence(cluster: str, recipe: Path, tmp_path: Path) -> None:
    from raypretrain.training.tracing import trace_step

    folder = tmp_path / "traced"
    assert run(recipe, folder, "training.sequence_losses=true", "training.steps=12").status == "finished"
    for row in metrics(folder):
        traced = trace_step(folder, row["step"])
        assert traced["batch_fingerprint"] == traced["recorded"] == row["batch_fingerprint"]
        losses = [sequence["loss"] for sequence in traced["sequences"]]
        assert sum(losses) / len(losses) == pytest.approx(row["loss"], abs=1e-5)
        tokens = sum(piece["tokens"] for s in traced["sequences"] for piece in s["pieces"])
        assert row["sources"] == {"reviews": tokens}


def test_one_worker_reads_the_same_batches_as_two(undisturbed: Path, recipe: Path) -> None:
    folder = undisturbed.parent / "one-worker"
    run(recipe, folder, "compute.workers=1")
    assert fingerprints(folder) == fingerprints(undisturbed)
    losses = zip(metrics(folder), metrics(undisturbed), strict=True)
    assert all(a["loss"] == pytest.approx(b["loss"], rel=1e-4) for a, b in losses)


def test_no_extension_is_compiled_so_no_compiler_is_needed(undisturbed: Path, extensions: Path) -> None:
    assert (undisturbed / "result.json").is_file()
    assert not extensions.exists()


@pytest.mark.faults
def test_workers_lost_more_often_than_allowed_end_the_run_with_one_line(
    cluster: str, recipe: Path, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill_one(event: dict[str, Any]) -> None:
        if "step" in event and not killed and (workers := train_workers()):
            killed.append(workers[0].pid)
            workers[0].send_signal(signal.SIGKILL)

    with pytest.raises(RaypretrainError, match=r"worker \d was lost, after 0 restarts"):
        run(recipe, tmp_path / "run", "compute.max_failures=0", watch=kill_one)


@pytest.mark.faults
def test_a_corrupt_shard_found_in_mid_run_ends_it_with_one_line_that_names_it(
    cluster: str, recipe: Path, corpus: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "data"
    bad.mkdir()
    for shard in corpus.iterdir():
        (bad / shard.name).write_bytes(shard.read_bytes())
    run(recipe, tmp_path / "run", f"corpus.sources.0.path={bad}/*.jsonl", "training.steps=1")
    damaged = bad / "shard-2.jsonl"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = b"\xff" * 2000
    damaged.write_bytes(data)
    # The manifest, the tokenizer and the held-out text are there; only the stream meets the damage.
    (tmp_path / "again" / "corpus").mkdir(parents=True)
    for made in (tmp_path / "run" / "corpus").iterdir():
        (tmp_path / "again" / "corpus" / made.name).write_bytes(made.read_bytes())
    with pytest.raises(RaypretrainError) as error:
        run(recipe, tmp_path / "again", f"corpus.sources.0.path={bad}/*.jsonl")
    assert "shard-2.jsonl" in str(error.value)
    assert "\n" not in str(error.value)
