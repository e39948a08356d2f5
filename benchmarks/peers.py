"""The plainest training loops that others would write: what the whole stack is measured against.

Both models have the same shape, precision, tokens and optimizer (torch's fused AdamW), in eager mode. With
``bf16`` the weights, the forward and backward pass and the optimizer's state are bf16.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from raypretrain.models.config import PRESETS, ModelConfig, ModelShape
from raypretrain.models.llama import Llama

Precision = Literal["fp32", "bf16"]
Step = Callable[[], float]

BATCH, LENGTH, VOCABULARY = 8, 512, 16384

TEN_MILLION = ModelConfig(width=256, layers=8, heads=4, feed_forward=704)


def random_tokens(seed: int = 0) -> Tensor:
    """[BATCH, LENGTH + 1] token ids."""
    return torch.randint(0, VOCABULARY, (BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(seed))


def bare_step(preset: str, precision: Precision) -> Step:
    """One step of our :class:`Llama` in a bare loop, as a function that returns the loss."""
    model = Llama(_shape(preset))
    model.init_weights(0)
    ids = random_tokens()
    return _step(model, precision, lambda: model(ids[:, :-1], ids[:, 1:]))


def transformers_step(preset: str, precision: Precision) -> Step:
    """One step of ``transformers``' ``LlamaForCausalLM``, called as documented, with ``labels``."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**_shape(preset).to_huggingface_config(), use_cache=False))
    ids = random_tokens()[:, :-1]  # it shifts by itself, so that one position fewer counts
    return _step(model, precision, lambda: model(input_ids=ids, labels=ids).loss)


def tokens_per_second(steps: dict[str, Step], rounds: int, threads: int) -> dict[str, float]:
    """The median speed of each step, run in turn so that a busy moment of the machine hits all alike.

    Args:
        steps: by name; each works on BATCH · LENGTH tokens.
        rounds: steps of each that count, after one that does not.
        threads: of torch; set back afterwards.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    try:
        for number in range(rounds + 1):
            for name, step in steps.items():
                start = time.perf_counter()
                step()
                if number:
                    seconds[name].append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    return {name: BATCH * LENGTH / statistics.median(times) for name, times in seconds.items()}


def compare(preset: str, precision: Precision, threads: int, rounds: int = 7) -> dict[str, float]:
    """Tokens per second of ``ours`` and of ``transformers`` in the bare loop."""
    steps = {"ours": bare_step(preset, precision), "transformers": transformers_step(preset, precision)}
    return tokens_per_second(steps, rounds, threads)


def _shape(name: str) -> ModelShape:
    """A preset's shape; or ``10m-in-all``: with the embedding, where a preset's name counts without it."""
    config = ModelConfig(preset=name) if name in PRESETS else TEN_MILLION
    return config.shape(VOCABULARY, LENGTH)


def _step(model: torch.nn.Module, precision: Precision, compute_loss: Callable[[], Tensor]) -> Step:
    if precision == "bf16":
        model.bfloat16()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> float:
        loss = compute_loss()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step
