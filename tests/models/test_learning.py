"""What is learned: gradients in double precision, and whole little trainings, against transformers' networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from real_text import reviews
from tokenizer_kinds import tokenizer_of
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
from uneven import spread

from raypretrain.models.config import ModelConfig
from raypretrain.models.families import build
from raypretrain.models.huggingface import save_language_model
from raypretrain.models.layout import to_huggingface
from raypretrain.models.shape import ModelShape
from raypretrain.tokens.objectives import MaskConfig, Masked, make_objective, whole_sequences
from raypretrain.tokens.tokenizer import Tokenizer
from raypretrain.training.optimizer import parameter_groups

IGNORED = -100
TINY = {"width": 32, "layers": 2, "heads": 4, "feed_forward": 48}
PRESETS = ["llama-1m", "gpt2-1m", "bert-1m", "modernbert-1m", "esm2-1m"]


def theirs_of(model: Any, shape: ModelShape, folder: Path) -> Any:
    """The same weights in transformers' network."""
    save_language_model(model.state_dict(), shape, folder, bos=1, eos=2, pad=3)
    auto = AutoModelForCausalLM if shape.objective == "causal" else AutoModelForMaskedLM
    return auto.from_pretrained(folder, dtype=next(iter(model.parameters())).dtype)


@pytest.mark.parametrize("preset", PRESETS)
def test_gradients_in_double_precision_are_those_of_transformers(preset: str, tmp_path: Path) -> None:
    shape = ModelConfig(preset=preset, **TINY).shape(120, 64)
    if shape.family == "esm":
        shape = replace(shape, mask_token=4)
    model = spread(build(shape)).double()
    theirs = theirs_of(model, shape, tmp_path).eval()
    ids = torch.randint(4, 120, (3, 50), generator=torch.Generator().manual_seed(1))
    if shape.objective == "causal":
        loss, expected = model(ids[:, :-1], ids[:, 1:]), theirs(ids, labels=ids)
        logits = model(ids)
    else:
        targets = ids.masked_fill(torch.arange(50) % 3 > 0, IGNORED)
        loss, expected = model(ids, targets), theirs(ids, labels=targets)
        logits = model(ids)
    assert (logits - expected.logits).abs().max() < 1e-5 * logits.abs().max()
    # transformers takes the loss in single precision: its gradients are those of its logits.
    model.zero_grad()
    upstream = torch.randn(logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (logits * upstream).sum().backward()
    (expected.logits * upstream).sum().backward()
    ours = to_huggingface({name: weight.grad for name, weight in model.named_parameters()}, shape.family)
    reference = {name: weight.grad for name, weight in theirs.named_parameters()}
    for name, gradient in ours.items():
        # Angles of rotary positions, and transformers' RMSNorm, are in single precision.
        scale = reference[name].abs().max()
        assert (gradient - reference[name]).abs().max() < 2e-5 * scale + 1e-9, name
    assert loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)


def batches(tokenizer: Tokenizer, length: int, rows: int) -> torch.Tensor:
    """[steps, rows, length] tokens of reviews."""
    flat = np.concatenate(tokenizer.encode_batch(reviews(400)))
    steps = len(flat) // (rows * length)
    return torch.from_numpy(flat[: steps * rows * length].astype(np.int64)).view(steps, rows, length)


def trained(model: Any, loss_of: Any, data: torch.Tensor, held_out: torch.Tensor) -> float:
    """Held-out loss after one pass over ``data``, in a bare loop."""
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=3e-3, betas=(0.9, 0.95), fused=True)
    model.train()
    for step, batch in enumerate(data):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 20) * (1 - step / len(data))
        loss = loss_of(model, batch, step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return float(torch.stack([loss_of(model, batch, -1 - i) for i, batch in enumerate(held_out)]).mean())


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["llama-1m", "gpt2-1m", "bert-1m"])
def test_a_training_comes_to_the_same_as_with_transformers(preset: str, tmp_path: Path) -> None:
    """Three seeds of the weights; the same batches, a bare PyTorch loop: held-out losses within 0.5 %."""
    tokenizer = tokenizer_of("like-bert" if preset == "bert-1m" else "bpe")
    data = batches(tokenizer, length=64, rows=8)
    train, held_out = data[:80], data[80:84]
    mask = make_objective("masked", MaskConfig(), tokenizer, 0) if preset == "bert-1m" else None

    def examples(batch: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        assert isinstance(mask, Masked)
        rows = np.arange(len(batch))
        places = np.stack([np.full(len(batch), step % 2**31), np.zeros_like(rows), rows], axis=1)
        return tuple(
            map(torch.from_numpy, mask.examples(whole_sequences(batch.numpy().astype(np.int32)), places))
        )

    def ours(model: Any, batch: torch.Tensor, step: int) -> torch.Tensor:
        if mask:
            return model(*examples(batch, step))
        return model(batch[:, :-1], batch[:, 1:])

    def theirs(model: Any, batch: torch.Tensor, step: int) -> torch.Tensor:
        if mask:
            ids, targets = examples(batch, step)
            return model(ids, labels=targets).loss
        return model(batch, labels=batch).loss

    shape = ModelConfig(preset=preset, width=64, layers=2, heads=4, feed_forward=128).shape(
        tokenizer.vocabulary, 64
    )
    losses = []
    for seed in range(3):
        model = build(shape)
        model.init_weights(seed)
        other = theirs_of(model, shape, tmp_path / str(seed))
        losses.append((trained(model, ours, train, held_out), trained(other, theirs, train, held_out)))
    own, reference = np.mean(losses, axis=0)
    assert own == pytest.approx(reference, rel=0.005), losses
    assert own < 0.9 * np.log(tokenizer.vocabulary), losses
