"""Real runs of a masked model: one worker, and two of which one is killed, hide the same tokens and learn the same."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import fingerprints, metrics, run, train_workers

from raypretrain.tokens.tokenizer import Tokenizer
from raypretrain.training.metrics import read_log

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]

MASKED = [
    "model.preset=modernbert-1m",
    "training.mask.rate=0.3",
    "training.mask.unit=word",
    "training.steps=24",
    "training.checkpoint.every=5",
    "sequences.packing=best-fit",
    "sequences.boundaries=true",
]


@pytest.fixture(scope="module")
def alone(cluster: str, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masked") / "alone"
    assert run(tiny_recipe, folder, *MASKED, "compute.workers=1").status == "finished"
    return folder


def test_two_workers_of_which_one_is_killed_learn_what_one_worker_learns(
    alone: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill(event: dict[str, Any]) -> None:
        if not killed and (step := event.get("step", {}).get("step", 0)) >= 8:
            killed.append(step)
            train_workers()[-1].send_signal(signal.SIGKILL)

    folder = tmp_path / "two"
    assert run(tiny_recipe, folder, *MASKED, watch=kill).status == "finished"
    assert killed
    assert fingerprints(folder) == fingerprints(alone)
    wanted = [row["loss"] for row in metrics(alone)]
    assert [row["loss"] for row in metrics(folder)] == pytest.approx(wanted, rel=1e-4)
    evaluated = [
        [(row["step"], row["held_out_loss"]) for row in read_log(place / "evaluations.jsonl")]
        for place in (folder, alone)
    ]
    assert [step for step, _ in evaluated[0]] == [step for step, _ in evaluated[1]] == [0, 20, 24]
    assert [loss for _, loss in evaluated[0]] == pytest.approx([loss for _, loss in evaluated[1]], rel=1e-4)
    assert evaluated[0][-1][1] < evaluated[0][0][1] - 0.3
    assert read_log(folder / "evaluations.jsonl")[0]["held_out_bits_per_byte"] is None


def test_the_released_model_fills_in_masks_in_transformers(alone: Path) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    model: Any = AutoModelForMaskedLM.from_pretrained(alone / "model")
    theirs: Any = AutoTokenizer.from_pretrained(alone / "model")
    ours = Tokenizer.load(alone / "corpus")
    assert theirs.mask_token_id == ours.mask
    ids = torch.tensor([[ours.bos, *ours.encode("the film is"), ours.mask, ours.eos]])
    with torch.no_grad():
        best = model(ids).logits[0, -2].topk(5).indices.tolist()
    assert all(not ours.is_special(token) for token in best)
