"""AdamW that can be kept from a step, and that does not import torch's compiler; and who is learned how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from raypretrain.training.disk_memory import DiskMemory
from raypretrain.training.settings import WeightGroup

# torch's optimizers import its compiler, two seconds of a core, only to say that they are not to be compiled; where
# this name is set, they take it as said.
for _member in vars(torch.optim.Optimizer).values():
    if _plain := getattr(_member, "__wrapped__", None):
        _plain.__dict__.setdefault("__dynamo_disable", _plain)

# Its step as it is inside a wrapper that imports the compiler, too, and switches gradients off.
adam_step: Callable[..., Any] = torch.optim.Adam.step.__wrapped__  # type: ignore[attr-defined]


class VetoedAdamW(torch.optim.AdamW):
    """AdamW that makes no step while ``vetoed()``: weights, moments and step counters stay as they are."""

    vetoed: Callable[[], bool] = staticmethod(lambda: False)
    disk: DiskMemory | None = None
    """Where the moments lie, if not in memory."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """See :class:`torch.optim.AdamW`."""
        if not self.vetoed():
            return adam_step(self, closure)
        # A first step that is vetoed leaves what the others need: moments of zero.
        for group in self.param_groups:
            self._init_group(group, [], [], [], [], [], [])
        return None

    def _init_group(self, group: dict[str, Any], *lists: list[Any]) -> Any:
        if self.disk is not None:
            for parameter in group["params"]:
                if parameter.grad is not None and not self.state[parameter]:
                    super()._init_group({**group, "params": [parameter]}, [], [], [], [], [], [])
                    self._moments_to(self.disk, self.state[parameter])
        return super()._init_group(group, *lists)

    def moments_to_disk(self) -> None:
        """Those that were loaded are in memory."""
        if self.disk is not None:
            for state in self.state.values():
                self._moments_to(self.disk, state)

    def _moments_to(self, disk: DiskMemory, state: dict[str, Any]) -> None:
        for name in ("exp_avg", "exp_avg_sq"):
            if name in state:
                state[name] = disk.moved(state[name])


_STACKED = {"query_key_value.weight": 3, "gate_up.weight": 2}
"""Parameters that are several matrices, one above the other, by the ends of their names."""


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    *,
    muon: bool = False,
    rules: Sequence[WeightGroup] = (),
    matrix_rate: float = 1.0,
) -> list[dict[str, Any]]:
    """The groups of an optimizer. Matrices decay, vectors (the norms' weights, biases) do not.

    Args:
        muon: whether the matrices of the layers get ``muon: True``, as :class:`~raypretrain.training.muon.Muon` reads.
        rules: the first whose pattern fits a parameter's name counts for it.
        matrix_rate: factor of the learning rate of the layers' matrices and of an output matrix.

    Returns:
        Matrices first; each group with ``rate``, the factor of its learning rate, and ``stacked``, the number of
        matrices that each of its parameters consists of.
    """
    groups: dict[tuple[bool, float, float, int], list[nn.Parameter]] = {}
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    for name, parameter in sorted(named, key=lambda pair: pair[1].ndim < 2):
        inner = is_inner_matrix(name, parameter)
        rate = matrix_rate if inner or name == "head.weight" else 1.0
        decay = weight_decay if parameter.ndim >= 2 else 0.0
        rule = next((rule for rule in rules if fnmatchcase(name, rule.parameters)), None)
        if rule is not None:
            rate *= rule.learning_rate
            decay = decay if rule.weight_decay is None else rule.weight_decay
        stacked = next((n for end, n in _STACKED.items() if muon and name.endswith(end)), 1)
        groups.setdefault((muon and inner, rate, decay, stacked), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "rate": rate, "muon": orthogonal, "stacked": stacked}
        for (orthogonal, rate, decay, stacked), parameters in groups.items()
    ]


def is_inner_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether it is a matrix of a layer: neither the embedding nor the output."""
    return parameter.ndim == 2 and name.startswith("blocks.")
