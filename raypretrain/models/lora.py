"""Low-rank adapters on the matrices of a network's layers; all else of it is frozen.

Those of the matrix ``blocks.0.attention.query.weight`` are called ``blocks.0.attention.query.lora_a`` [rank, inputs],
``….lora_b`` [outputs, rank] and, with DoRA, ``….magnitude`` [outputs]; every other weight keeps its name.
``lora_files.py`` writes them as the library ``peft`` has them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raypretrain.errors import InputError
from raypretrain.models.families import LanguageModel
from raypretrain.models.linear import Linear, linear
from raypretrain.models.lora_config import LoraConfig

_TINY = torch.finfo(torch.float32).tiny


class AdaptedLinear(nn.Module):
    """``x @ (W + scale · B · A).T + bias`` or, with DoRA, ``x @ (m · (W + scale · B · A) / norm).T + bias``.

    The norm is that of each row. It is no part of the gradient (arXiv:2402.09353, section 4.3), though it is computed
    anew in each pass. W and the bias are those of the matrix that is adapted; what is trained is in fp32, whatever
    their dtype, because small steps would be lost in less.
    """

    def __init__(self, adapted: Linear, config: LoraConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.weight, self.bias = adapted.weight, adapted.bias
        self.scale, self.dropout = config.scale, config.dropout
        self.training = adapted.training
        outputs, inputs = self.weight.shape
        drawn = torch.empty(config.rank, inputs)  # on the CPU: the same on every device
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
        self.lora_a = nn.Parameter(drawn.to(self.weight.device))
        self.lora_b = nn.Parameter(torch.zeros(outputs, config.rank, device=self.weight.device))
        self.magnitude = nn.Parameter(_norms(self._sum())) if config.dora else None

    def forward(self, x: Tensor) -> Tensor:
        low = linear(F.dropout(x, self.dropout, self.training), self.lora_a.to(x.dtype))
        added = linear(self.scale * low, self.lora_b.to(x.dtype))
        if self.magnitude is None:
            return linear(x, self.weight, self.bias) + added
        gain = self.magnitude / _norms(self._sum())
        y = gain.to(x.dtype) * (linear(x, self.weight) + added)
        return y if self.bias is None else y + self.bias

    @torch.no_grad()
    def merged(self) -> Tensor:
        """The one matrix that does the same, computed in fp32, in the dtype of W."""
        whole = self._sum()
        if self.magnitude is not None:
            whole *= (self.magnitude / _norms(whole))[:, None]
        return whole.to(self.weight.dtype)

    @torch.no_grad()
    def _sum(self) -> Tensor:
        return self.weight.float() + self.scale * linear(self.lora_b, self.lora_a.T)


def _norms(matrix: Tensor) -> Tensor:
    """Of each row; a row of zeros is to stay one, not to become no number."""
    return torch.linalg.vector_norm(matrix, dim=1).clamp_min(_TINY)


def add_adapters(network: LanguageModel, config: LoraConfig, seed: int) -> None:
    """Put adapters on the layers' matrices and freeze all else; at first the network computes what it did.

    A is drawn uniformly with the bound 1 / sqrt(inputs) (Kaiming's with a = sqrt(5)), B is zero. The same seed gives
    the same adapters on every machine. No matrix is copied.

    Raises:
        InputError: the rank is larger than a side of a matrix; then nothing has been changed.
        ValueError: the network has adapters already.
    """
    if adapter_state(network):
        raise ValueError("the network has adapters already")
    adapted = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, Linear) and _is_target(name, config)
    }
    for name, module in adapted.items():
        if config.rank > min(module.weight.shape):
            raise InputError(
                f"rank {config.rank} is larger than a side of {name}.weight {list(module.weight.shape)}",
                where="lora",
                fix=f"give at most {min(min(m.weight.shape) for m in adapted.values())}",
            )
    network.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, module in adapted.items():
        network.set_submodule(name, AdaptedLinear(module, config, generator))


def _is_target(name: str, config: LoraConfig) -> bool:
    """Whether the matrix of this name, e.g. ``blocks.0.attention.query``, is to get an adapter."""
    room, _, inside = name.partition(".")
    return room == "blocks" and config.targets in ("all", inside.split(".")[1])


def is_adapter(name: str) -> bool:
    """Whether a weight of this name is an adapter's."""
    return name.endswith((".lora_a", ".lora_b", ".magnitude"))


def adapter_state(network: LanguageModel) -> dict[str, Tensor]:
    """What :func:`add_adapters` has added, by name, fp32; empty for a network without adapters."""
    return {name: weight for name, weight in network.state_dict().items() if is_adapter(name)}


def load_adapters(network: LanguageModel, adapters: Mapping[str, Tensor], where: str) -> None:
    """Give the adapters of a network, added before, the weights of an :func:`adapter_state`.

    Args:
        where: they come from, for the message.

    Raises:
        InputError: one is missing, unknown or of another shape.
    """
    own = adapter_state(network)
    for name in sorted(own.keys() ^ adapters.keys()):
        raise InputError(f"the adapter '{name}' is {'missing' if name in own else 'unknown'}", where=where)
    for name, weight in adapters.items():
        if weight.shape != own[name].shape:
            shapes = f"{list(weight.shape)}, not {list(own[name].shape)}"
            raise InputError(f"the adapter '{name}' has the shape {shapes}", where=where)
    network.load_state_dict(adapters, strict=False)


def merged_state(network: LanguageModel) -> dict[str, Tensor]:
    """The state dict of the plain language model that computes the same, as ``families.build`` makes it.

    The adapted matrices are new, in the dtype of the frozen ones; the other weights are the network's own.
    """
    state = {name: weight for name, weight in network.state_dict().items() if not is_adapter(name)}
    adapted = {name: m.merged() for name, m in network.named_modules() if isinstance(m, AdaptedLinear)}
    return state | {f"{name}.weight": weight for name, weight in adapted.items()}
