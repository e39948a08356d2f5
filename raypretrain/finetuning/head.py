"""The head on frozen features: a convex problem, solved rather than trained."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from raypretrain.finetuning.encode import Encoded, batches
from raypretrain.models.heads import SequenceClassifier

EVALUATION_BATCH = 64


@torch.no_grad()
def features(model: SequenceClassifier, data: Encoded, pad: int) -> Tensor:
    """What the head reads of each sequence, fp32 [sequences, width], on the CPU."""
    device = next(model.parameters()).device
    found = torch.empty(len(data), model.shape.width)
    for places in batches(data.lengths, EVALUATION_BATCH):
        ids, lengths = data.padded(places, pad)
        vectors = model.features(torch.from_numpy(ids).to(device), torch.from_numpy(lengths).to(device))
        found[torch.from_numpy(places)] = vectors.float().cpu()
    return found


def solve_head(vectors: Tensor, classes: Tensor, labels: int, ridge: float) -> Tensor:
    """The head with the least cross-entropy on ``vectors``, drawn to zero by ``ridge``.

    The features are whitened first (their second moments become the identity), so that ``ridge`` means the
    same for every model and L-BFGS converges in few steps; the whitening is multiplied into the head that is
    returned.

    Args:
        vectors: fp32 [examples, width].
        classes: int64 [examples].

    Returns:
        fp32 [labels, width]; the scores are ``vectors @ head.T``.
    """
    moments = vectors.double().T @ vectors.double() / len(vectors)
    values, directions = torch.linalg.eigh(moments)
    # Directions in which the features hardly vary would be blown up to noise.
    scale = (values.clamp_min(0) + 1e-5 * values.mean()).rsqrt()
    whitening = (directions * scale) @ directions.T
    whitened = (vectors.double() @ whitening).float()
    head = torch.zeros(labels, vectors.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([head], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(whitened @ head.T, classes) + ridge / 2 * head.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return (head.detach().double() @ whitening).float()


class FeatureCache:
    """The latest features computed in this process: trials that differ in the head alone share them."""

    def __init__(self, entries: int = 8) -> None:
        self._entries = entries
        self._kept: OrderedDict[tuple[object, ...], Tensor] = OrderedDict()

    def get(self, key: tuple[object, ...], compute: Callable[[], Tensor]) -> Tensor:
        """The features under ``key``, which must name all that they depend on."""
        if key not in self._kept:
            self._kept[key] = compute()
            while len(self._kept) > self._entries:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]
