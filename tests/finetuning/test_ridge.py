"""How strongly a solved head is drawn to zero: what a cross-validation finds."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from raypretrain.finetuning.encode import Encoded
from raypretrain.finetuning.kinds.classify import Classify
from raypretrain.finetuning.ridge import RIDGES, best_ridge


class Head(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 2, bias=False)

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        return self.score(features)


def found(examples: int, width: int, noise: float) -> float:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(examples, width, generator=generator)
    signal = vectors[:, 0] + noise * torch.randn(examples, generator=generator)
    classes = (signal > 0).long().numpy()
    data = Encoded(np.zeros(examples, np.int32), np.arange(examples + 1), classes)
    return best_ridge(Head(width), Classify(("a", "b")), vectors, data, None, seed=0)


def test_few_noisy_examples_of_many_features_want_more_of_it_than_many_clean_ones() -> None:
    assert found(60, 100, noise=2.0) > 10 * found(4000, 5, noise=0.1)


def test_it_is_one_of_those_that_are_tried_and_always_the_same() -> None:
    assert found(200, 20, noise=1.0) in RIDGES
    assert found(200, 20, noise=1.0) == found(200, 20, noise=1.0)
