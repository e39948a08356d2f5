"""Muon: its update against torch's own, in every ZeRO stage on two real workers, resumed and resized."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from process_group import leave
from targets import causal_targets
from test_engine_resize import (
    DECAY,
    LENGTH,
    PHASES,
    RATE,
    STAGES,
    STEPS,
    batch,
    live_through,
    rate,
    shape,
    stage,
)

from raypretrain.models import linear
from raypretrain.models.config import ModelConfig
from raypretrain.models.families import build
from raypretrain.models.llama import Llama
from raypretrain.training.muon import Muon, orthogonal
from raypretrain.training.optimizer import is_inner_matrix, parameter_groups

BETAS, MOMENTUM = (0.9, 0.95), 0.95
CPU = torch.device("cpu")
SIZES = {"width": 32, "layers": 2, "heads": 2, "feed_forward": 64}


def model() -> Llama:
    made = Llama(shape())
    made.init_weights(0)
    return made


# ------------------------------------------------------------------------------------- what each worker does


def work(folder: Path, phase: int) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    found = {
        f"{precision}-{zero}": stage(folder, phase, precision, zero, "muon") for precision, zero in STAGES
    }
    if dist.get_rank() == 0:
        (folder / f"{phase}.json").write_text(json.dumps(found), encoding="utf-8")
    leave()


# ------------------------------------------------------------------------------------------------- the tests


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[float]]]:
    """By phase and stage."""
    return live_through(__file__, tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def reference() -> list[float]:
    """The losses of the same training by torch's own Muon and AdamW, in one process."""
    trained = model()
    named = list(trained.named_parameters())
    inner = [p for name, p in named if is_inner_matrix(name, p)]
    others = [p for name, p in named if not is_inner_matrix(name, p)]
    groups = [
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": DECAY},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizers = [
        torch.optim.Muon(
            inner, lr=RATE, weight_decay=DECAY, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(groups, lr=RATE, betas=BETAS),
    ]
    found = []
    for step in range(3 * STEPS):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate(step)
            optimizer.zero_grad()
        ids = batch(step)
        loss = trained(ids, causal_targets(ids))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 0.5)
        for optimizer in optimizers:
            optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("zero", range(4))
def test_every_stage_learns_what_torchs_own_muon_learns(
    losses: list[dict[str, list[float]]], reference: list[float], zero: int
) -> None:
    # The iterations are in bf16: what two workers sum in another order is rounded otherwise.
    assert losses[0][f"fp32-{zero}"] == pytest.approx(reference, rel=1e-3)
    assert reference[-1] < reference[0] - 0.3


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "zero"), STAGES)
@pytest.mark.parametrize("phase", range(1, len(PHASES)))
def test_a_resized_run_goes_on_as_one_that_was_not_resized(
    losses: list[dict[str, list[float]]], phase: int, precision: str, zero: int
) -> None:
    name = f"{precision}-{zero}"
    undisturbed = losses[0][name][phase * STEPS :][:STEPS]
    assert losses[phase][name] == pytest.approx(undisturbed, rel=1e-3 if precision == "fp32" else 5e-3)


@pytest.mark.unit
@pytest.mark.parametrize("has_bf16", [True, False])
@pytest.mark.parametrize("size", [(24, 24), (16, 48), (48, 16)])
def test_an_orthogonal_update_has_the_gradients_directions_and_singular_values_of_about_one(
    size: tuple[int, int], has_bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(linear._ways, "cpu", lambda: linear.Cpu(False, False, has_bf16))
    matrix = torch.randn(size, generator=torch.Generator().manual_seed(0))
    made = orthogonal(matrix)
    assert made.dtype == (torch.bfloat16 if has_bf16 else torch.float32)
    made = made.float()
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.6
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = left.T @ made @ right.T
    assert (turned - turned.diagonal().diag_embed()).abs().max() < 0.1


@pytest.mark.unit
def test_the_embedding_and_the_norms_are_learned_by_adamw() -> None:
    trained = model()
    groups = parameter_groups(trained, DECAY, muon=True)
    inner = {id(p) for group in groups if group["muon"] for p in group["params"]}
    assert inner == {
        id(p) for name, p in trained.named_parameters() if name.startswith("blocks.") and p.ndim == 2
    }
    before = {name: p.detach().clone() for name, p in trained.named_parameters()}
    optimizer = Muon(groups, MOMENTUM, CPU, lr=RATE, betas=BETAS, eps=1e-8, fused=True)
    alone = torch.optim.AdamW([trained.embedding.weight], lr=RATE, betas=BETAS, weight_decay=DECAY)
    trained(batch(0), causal_targets(batch(0))).backward()
    optimizer.step()
    by_muon = trained.embedding.weight.detach().clone()
    with torch.no_grad():
        trained.embedding.weight.copy_(before["embedding.weight"])
    alone.step()
    torch.testing.assert_close(trained.embedding.weight, by_muon)
    query = trained.blocks[0].attention.query.weight.detach() - before["blocks.0.attention.query.weight"]
    # As large as AdamW's steps: 0.2 · rate · sqrt(32) / sqrt(32), and the decay beside it.
    assert 0.12 * RATE < float(query.square().mean().sqrt()) < 0.28 * RATE


@pytest.mark.unit
def test_matrices_that_are_stacked_are_made_orthogonal_one_by_one() -> None:
    trained = build(ModelConfig(preset="modernbert-1m", **SIZES).shape(128, LENGTH))
    trained.init_weights(0)
    optimizer = Muon(parameter_groups(trained, 0.0, muon=True), 0.0, CPU, lr=1.0, fused=True)
    generator = torch.Generator().manual_seed(0)
    for parameter in trained.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    for name, number in (
        ("attention.query_key_value", 3),
        ("feed_forward.gate_up", 2),
        ("feed_forward.down", 1),
    ):
        weight = trained.get_parameter(f"blocks.1.{name}.weight")
        before = weight.detach().clone()
        optimizer.step()
        for part in (before - weight.detach()).chunk(number):
            values = torch.linalg.svdvals(part) / (0.2 * max(part.shape) ** 0.5)
            assert values.median() > 0.7, name
            assert values.max() < 1.3, name


@pytest.mark.unit
def test_a_vetoed_step_moves_nothing_and_leaves_no_momentum() -> None:
    trained = model()
    optimizer = Muon(
        parameter_groups(trained, DECAY, muon=True), MOMENTUM, CPU, lr=RATE, betas=BETAS, eps=1e-8, fused=True
    )
    before = [p.detach().clone() for p in trained.parameters()]
    trained(batch(0), causal_targets(batch(0))).backward()
    optimizer.vetoed = lambda: True
    optimizer.step()
    for old, new in zip(before, trained.parameters(), strict=True):
        assert torch.equal(old, new)
        assert not optimizer.state[new]["exp_avg"].any()


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(Path(sys.argv[2]), int(sys.argv[3]))
