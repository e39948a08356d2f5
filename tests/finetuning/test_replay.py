"""Replay: which sequences come in which step, and their loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from base_runs import LENGTH, make_run, network_of, text_of
from torch.nn import functional as F

from raypretrain.finetuning.adapt import sequences_needed
from raypretrain.finetuning.base_text import BaseText
from raypretrain.finetuning.replay import Replay
from raypretrain.tokens.objectives import Masked


@pytest.fixture(scope="module", params=["llama-1m", "bert-1m"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def text(run: Path) -> BaseText:
    return text_of(run, replay=40)


def originals(replay: Replay, k: int) -> list[tuple[int, ...]]:
    """The sequences of batch ``k`` before anything is hidden."""
    rows = replay.rows(k)
    assert replay.text.replay is not None
    if not isinstance(replay.text.objective, Masked):
        return [tuple(row) for row in rows.ids.tolist()]
    return [tuple(row) for row in np.where(rows.targets >= 0, rows.targets, rows.ids).tolist()]


def pool(text: BaseText, number: int) -> list[tuple[int, ...]]:
    assert text.replay is not None
    return [tuple(row) for row in text.replay.tokens[:number].tolist()]


def test_a_batch_follows_from_its_number_and_the_seed_alone(text: BaseText) -> None:
    one, other = Replay(text, 4, 8, seed=1), Replay(text, 4, 8, seed=1)
    late, again = one.rows(5), [other.rows(k) for k in range(8)][5]
    for values, same in ((late.ids, again.ids), (late.targets, again.targets), (late.starts, again.starts)):
        assert values.dtype == np.int64
        assert values.shape == (4, LENGTH)
        np.testing.assert_array_equal(values, same)
    assert originals(Replay(text, 4, 8, seed=2), 5) != originals(one, 5)


def test_a_trial_takes_each_of_its_own_sequences_once(text: BaseText) -> None:
    replay = Replay(text, 4, 8, seed=1)
    seen = [row for k in range(8) for row in originals(replay, k)]
    assert sorted(seen) == sorted(pool(text, 32))
    assert seen != pool(text, 32)


def test_a_larger_pool_changes_nothing(run: Path, text: BaseText) -> None:
    larger = text_of(run, replay=200)
    for k in range(8):
        np.testing.assert_array_equal(
            Replay(text, 4, 8, seed=1).rows(k).ids, Replay(larger, 4, 8, seed=1).rows(k).ids
        )


def test_a_pool_that_is_too_small_comes_again_in_another_order(run: Path) -> None:
    text = text_of(run, replay=6)
    replay = Replay(text, 4, 9, seed=1)
    seen = [row for k in range(9) for row in originals(replay, k)]
    times = [seen[i : i + 6] for i in range(0, 36, 6)]
    assert all(sorted(time) == sorted(pool(text, 6)) for time in times)
    assert len({tuple(time) for time in times}) > 3
    if isinstance(text.objective, Masked):  # and with other tokens hidden
        hidden: dict[tuple[int, ...], set[bytes]] = {}
        for k in range(9):
            for row, targets in zip(originals(replay, k), replay.rows(k).targets, strict=True):
                hidden.setdefault(row, set()).add((targets >= 0).tobytes())
        assert min(map(len, hidden.values())) > 3


def test_masks_are_of_the_seed_too(text: BaseText) -> None:
    assert text.replay is not None
    alone = replace(text, replay=text.replay[:1])
    one, other = (Replay(alone, 1, 1, seed).rows(0) for seed in (1, 2))
    assert (one.targets != other.targets).any() == isinstance(text.objective, Masked)


def test_its_loss_is_the_bare_formula_and_has_a_gradient(run: Path, text: BaseText) -> None:
    network, replay = network_of(run), Replay(text, 4, 8, seed=1)
    rows = replay.rows(2)
    ids, targets, starts = (torch.from_numpy(v) for v in (rows.ids, rows.targets, rows.starts))
    wanted = F.cross_entropy(network(ids, starts=starts).flatten(0, 1), targets.flatten())
    loss = replay.loss(network, 2)
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    assert rows.weight == int((targets != -100).sum())
    wanted.backward()
    reference = [weight.grad.clone() for weight in network.parameters() if weight.grad is not None]
    network.zero_grad()
    loss.backward()
    found = [weight.grad for weight in network.parameters() if weight.grad is not None]
    for own, other in zip(found, reference, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-6)


def test_its_steps_are_those_of_the_bases_own_training(run: Path, text: BaseText) -> None:
    """Ten of them lower the loss."""
    network, replay = network_of(run), Replay(text, 8, 10, seed=1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for k in range(10):
        loss = replay.loss(network, k)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.1


@pytest.mark.parametrize(
    ("rate", "batch", "steps", "wanted"),
    [(0.25, 16, 10, (4, 40)), (0.01, 16, 10, (1, 10)), (2, 3, 5, (6, 30))],
)
def test_so_many_are_needed(rate: float, batch: int, steps: int, wanted: tuple[int, int]) -> None:
    assert sequences_needed(rate, batch, steps) == wanted
