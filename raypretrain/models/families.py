"""Which families of networks there are, and what each is. A new one is a line here and its two files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import init
from torch.overrides import TorchFunctionMode

from raypretrain.models.config import LlamaShape, ModernBertShape
from raypretrain.models.llama import Llama
from raypretrain.models.modernbert import ModernBert
from raypretrain.models.shape import ModelShape, Objective

LanguageModel = Llama | ModernBert
"""What :func:`build` gives: a module with a shape, ``init_weights(seed)``, and ``forward(ids, targets, each)``."""


@dataclass(frozen=True)
class Family:
    """One kind of network.

    Args:
        shape: the class of its sizes.
        network: makes its language model of a shape.
    """

    shape: type[ModelShape]
    network: Callable[[ModelShape], LanguageModel]

    @property
    def objective(self) -> Objective:
        """What it learns to predict."""
        return self.shape.objective

    @property
    def architecture(self) -> str:
        """The class of transformers that loads its weights."""
        return self.shape.architecture


FAMILIES: dict[str, Family] = {
    kind.family: Family(kind, network)
    for kind, network in ((LlamaShape, Llama), (ModernBertShape, ModernBert))
}
"""By the ``model_type`` of Hugging Face's config."""


class _Undrawn(TorchFunctionMode):
    """Leaves the random numbers out that torch would give a new module's weights.

    They take as long as the right ones, and on the meta device torch imports its compiler for them.
    """

    _DRAWS = frozenset((torch.Tensor.normal_, init.normal_, init.kaiming_uniform_, init.uniform_))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self._DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def build(shape: ModelShape) -> LanguageModel:
    """The language model of this shape; its weights are not set yet (``init_weights`` or a state dict does)."""
    with _Undrawn():
        return FAMILIES[shape.family].network(shape)
