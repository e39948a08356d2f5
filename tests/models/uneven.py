"""Weights for the tests of parity."""

from __future__ import annotations

import torch


def spread(model: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough, and norms and bias uneven enough, that a mistake anywhere shows in the logits."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(1 + 0.3 * noise if weight.ndim == 1 else 0.2 * noise)
    return model.eval()
