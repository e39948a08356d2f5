"""Text from a model: one token after another, drawn from its predictions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from raypretrain.models.attention import Cache
from raypretrain.models.gpt2 import Gpt2
from raypretrain.models.llama import Llama


@torch.inference_mode()
def generate(
    model: Llama | Gpt2,
    ids: Sequence[int],
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    eos: int | None = None,
) -> list[int]:
    """Continue ``ids`` by at most ``max_new_tokens`` tokens; the same seed draws the same ones.

    Stops before an ``eos`` and where the model's ``max_length`` is reached.

    Args:
        ids: the prompt, at least one token (the tokenizer's bos for a free sample).
        temperature: divides the logits; 0 takes the likeliest token each time.
        top_k: draw among the k likeliest only.
        top_p: draw among the likeliest that together have this probability (arXiv:1904.09751).

    Returns:
        The new tokens alone, without the eos.
    """
    if not ids:
        raise ValueError("a prompt has at least one token")
    device = model.embedding.weight.device
    generator = torch.Generator(device).manual_seed(seed)
    cache = Cache()
    new: list[int] = []
    step = torch.tensor([list(ids)], device=device)
    for _ in range(min(max_new_tokens, model.shape.max_length - len(ids))):
        logits = model.next_logits(step, cache)[0].float()
        token = _draw(logits, temperature, top_k, top_p, generator)
        if token == eos:
            break
        new.append(token)
        step = torch.tensor([[token]], device=device)
    return new


def _draw(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator
) -> int:
    """One token of the distribution that ``logits`` [V] and the limits describe."""
    if temperature == 0:
        return int(logits.argmax())
    ordered, tokens = (logits / temperature).sort(descending=True, stable=True)
    if top_k is not None:
        ordered, tokens = ordered[:top_k], tokens[:top_k]
    probabilities = F.softmax(ordered, dim=-1)
    if top_p is not None:
        # Keep a token if those before it do not reach top_p yet: the first is always kept.
        probabilities = probabilities * (probabilities.cumsum(0) - probabilities < top_p)
    return int(tokens[torch.multinomial(probabilities, 1, generator=generator)])
