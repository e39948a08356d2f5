"""Sequences that two workers share: they learn what one worker learns that has them alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from process_group import leave, start_workers

from raypretrain.config import validate
from raypretrain.errors import RecipeError
from raypretrain.models.config import ModelConfig
from raypretrain.models.families import build
from raypretrain.tokens.objectives import IGNORED
from raypretrain.training.microbatch import MicroBatch
from raypretrain.training.recipe import PretrainRecipe

LENGTH, ROWS, STEPS, VOCABULARY = 300, 4, 3, 64
SIZES = {"width": 32, "layers": 3, "heads": 4, "feed_forward": 48}
CASES: dict[str, dict[str, Any]] = {
    "llama, ZeRO 0": {"preset": "llama-1m", "key_value_heads": 2, "zero": 0},
    "llama, ZeRO 2, muon, full checkpointing": {
        "preset": "llama-1m",
        "zero": 2,
        "checkpointing": "full",
        "optimizer": "muon",
    },
    "gpt2, ZeRO 1": {"preset": "gpt2-1m", "zero": 1},
    "modernbert, ZeRO 3": {"preset": "modernbert-1m", "local_attention": 16, "zero": 3},
    "bert, ZeRO 1, whole rows": {"preset": "bert-1m", "zero": 1, "whole": True},
    "esm2, ZeRO 1, full checkpointing": {"preset": "esm2-1m", "zero": 1, "checkpointing": "full"},
}


def batch(step: int, masked: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids, targets and starts [ROWS, LENGTH]; documents begin anywhere, and the targets are uneven."""
    draw = np.random.default_rng(step)
    ids = torch.from_numpy(draw.integers(5, VOCABULARY, (ROWS, LENGTH)))
    ids[:, ::2] = 7
    targets = ids.clone() if masked else torch.cat([ids[:, 1:], ids[:, :1]], dim=1)
    targets[torch.from_numpy(draw.random((ROWS, LENGTH))) < (0.7 if masked else 0.1)] = IGNORED
    targets[:, : LENGTH // 4] = IGNORED
    begins = draw.random((ROWS, LENGTH)) < 0.02
    columns = np.arange(LENGTH)
    starts = np.maximum.accumulate(np.where(begins, columns, 0), axis=1)
    return ids, targets, torch.from_numpy(starts)


# ------------------------------------------------------------------------------------- what each worker does


def work(rank: int, folder: Path, workers: int) -> None:
    """All cases, one after the other; writes ``WORKERS-RANK.json``."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    results = {name: case(rank, workers, **options) for name, options in CASES.items()}
    (folder / f"{workers}-{rank}.json").write_text(json.dumps(results), encoding="utf-8")
    leave()


def case(
    rank: int, workers: int, preset: str, zero: int, whole: bool = False, **options: Any
) -> list[list[float]]:
    """Loss and norm of each step, and at last the held-out loss."""
    import torch.distributed as dist

    from raypretrain.training.engine import Engine, EngineSettings

    own = {name: options.pop(name) for name in ("key_value_heads", "local_attention") if name in options}
    model = build(ModelConfig(preset=preset, **SIZES, **own).shape(VOCABULARY, LENGTH))
    model.init_weights(0)
    settings = EngineSettings(
        zero=zero,
        precision="fp32",
        micro_batch=2,
        accumulation=ROWS // 2,
        workers=workers,
        learning_rate=3e-3,
        weight_decay=0.1,
        betas=(0.9, 0.95),
        epsilon=1e-8,
        clip=1.0,
        sequence_workers=workers,
        **options,
    )
    engine = Engine(model, settings, torch.device("cpu"))
    masked = model.shape.objective == "masked"
    part = LENGTH // workers
    columns = slice(rank * part, (rank + 1) * part)

    def micro_batches(step: int) -> Any:
        ids, targets, starts = batch(step, masked)
        number, total = workers * ROWS // 2, int((targets != IGNORED).sum())
        for first in range(0, ROWS, 2):
            rows = slice(first, first + 2), columns
            mine = targets[rows].contiguous()
            weight = int((mine != IGNORED).sum()) * number / total
            if not weight:
                mine[0, 0] = 7
            yield MicroBatch(
                ids[rows].contiguous(), mine, weight, None if whole else starts[rows].contiguous()
            )

    found = []
    for step in range(STEPS):
        loss = engine.accumulate(micro_batches(step))
        dist.all_reduce(loss)
        found.append([loss.item() / workers, engine.step(3e-3)])
    ids, targets, starts = batch(99, masked)
    return [*found, [float(engine.loss(MicroBatch(ids, targets, 1.0, starts))), 0.0]]


# ------------------------------------------------------------------------------------------------- the tests


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """By case, of one worker and of each of two."""
    folder = tmp_path_factory.mktemp("ulysses")
    for workers in (1, 2):
        start_workers(__file__, folder, workers, str(workers))
    return [json.loads((folder / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1")]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_workers_that_share_sequences_learn_what_one_learns(
    results: list[dict[str, Any]], name: str
) -> None:
    alone, first, second = (found[name] for found in results)
    assert first == second
    rounding = 2e-3 if "muon" in name else 1e-4  # Muon's iterations are in bf16
    for (loss, norm), (wanted, wanted_norm) in zip(first, alone, strict=True):
        assert loss == pytest.approx(wanted, rel=rounding)
        assert norm == pytest.approx(wanted_norm, rel=10 * rounding)
    assert alone[STEPS - 1][0] < alone[0][0] - 0.02


@pytest.mark.unit
@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        ({"compute": {"sequence_workers": 2, "workers": 3}}, "needs workers: a multiple of 2"),
        ({"compute": {"sequence_workers": 2}}, "needs workers: a multiple of 2"),
        ({"compute": {"sequence_workers": 2, "workers": [2, 4]}}, "needs workers: a multiple of 2"),
        ({"compute": {"sequence_workers": 4, "workers": 4}}, "do not divide the 6 of heads"),
        ({"compute": {"sequence_workers": 3, "workers": 3}}, "do not divide the 512 of sequences.length"),
    ],
)
def test_what_cannot_be_shared_equally_is_refused(overrides: dict[str, Any], wanted: str) -> None:
    values = {"corpus": {"sources": [{"path": "x.txt"}]}, **overrides}
    with pytest.raises(RecipeError, match=wanted):
        validate(values, PretrainRecipe, folder=Path(), where="recipe")


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
