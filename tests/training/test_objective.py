"""The targets: at each place the next token."""

from __future__ import annotations

import torch

from raypretrain.training.objective import IGNORED, causal_targets


def test_each_place_predicts_the_next_and_the_last_predicts_nothing() -> None:
    ids = torch.tensor([[5, 6, 7, 8], [1, 2, 3, 4]])
    assert causal_targets(ids).tolist() == [[6, 7, 8, IGNORED], [2, 3, 4, IGNORED]]
    assert ids.tolist() == [[5, 6, 7, 8], [1, 2, 3, 4]]
    assert causal_targets(ids).dtype == torch.int64


def test_what_is_ignored_is_what_the_loss_ignores() -> None:
    logits = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[5, 6, 7, 8], [1, 2, 3, 4]])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), causal_targets(ids).flatten())
    by_hand = -logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None]).mean()
    torch.testing.assert_close(loss, by_hand)


def test_a_sequence_of_one_token_has_nothing_to_predict() -> None:
    assert causal_targets(torch.tensor([[5]])).tolist() == [[IGNORED]]
