"""Which families of networks there are. A new one is a line here, one in ``config.py`` and its two files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import init
from torch.overrides import TorchFunctionMode

from raypretrain.models.bert import Bert
from raypretrain.models.esm2 import Esm2
from raypretrain.models.gpt2 import Gpt2
from raypretrain.models.llama import Llama
from raypretrain.models.modernbert import ModernBert
from raypretrain.models.shape import ModelShape

LanguageModel = Llama | Gpt2 | Bert | ModernBert | Esm2
"""What :func:`build` gives: a module with a shape, ``init_weights(seed)``, and ``forward(ids, targets, each)``."""

NETWORKS: dict[str, Callable[[ModelShape], LanguageModel]] = {
    "llama": Llama,
    "gpt2": Gpt2,
    "bert": Bert,
    "modernbert": ModernBert,
    "esm": Esm2,
}
"""By the ``model_type`` of Hugging Face's config: what makes the language model of a shape."""


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
        return NETWORKS[shape.family](shape)
