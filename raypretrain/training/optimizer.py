"""AdamW that can be kept from a step, and that does not import torch's compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

# torch's optimizers import its compiler, two seconds of a core, only to say that they are not to be compiled; where
# this name is set, they take it as said.
for _member in vars(torch.optim.Optimizer).values():
    if _plain := getattr(_member, "__wrapped__", None):
        _plain.__dict__.setdefault("__dynamo_disable", _plain)

# Its step as it is inside a wrapper that imports the compiler, too, and switches gradients off.
_adam_step: Callable[..., Any] = torch.optim.Adam.step.__wrapped__  # type: ignore[attr-defined]


class VetoedAdamW(torch.optim.AdamW):
    """AdamW that makes no step while ``vetoed()``: weights, moments and step counters stay as they are."""

    vetoed: Callable[[], bool] = staticmethod(lambda: False)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """See :class:`torch.optim.AdamW`."""
        if not self.vetoed():
            return _adam_step(self, closure)
        # A first step that is vetoed leaves what the others need: moments of zero.
        for group in self.param_groups:
            self._init_group(group, [], [], [], [], [], [])
        return None


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of AdamW: matrices decay, vectors (the norms' weights) do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
