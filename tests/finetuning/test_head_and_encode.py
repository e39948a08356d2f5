"""The solved head, scores, token arrays and batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from real_text import reviews
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from transformers import AutoTokenizer

from raypretrain.finetuning.encode import Encoded, Encoder, batches, starts_of
from raypretrain.finetuning.head import (
    SHRINKAGE,
    FeatureCache,
    constant_of,
    solve_classes,
    solve_labels,
    solve_numbers,
)
from raypretrain.finetuning.kinds.classify import Classify
from raypretrain.finetuning.labelled import Example
from raypretrain.finetuning.scores import scores_of
from raypretrain.finetuning.train import features_of
from raypretrain.models.families import build


def _blobs(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % classes
    noise = torch.randn(300, 6, generator=generator)
    centres = torch.randn(classes, 6, generator=generator)
    stretch = torch.tensor([1e3, 1.0, 1e-2, 1.0, 10.0, 0.1])  # a badly conditioned problem
    return (centres[labels] + noise) * stretch, labels


@pytest.mark.parametrize("classes", [2, 5])
def test_the_solved_head_is_the_optimum_of_the_whitened_problem(classes):
    vectors, labels = _blobs(classes)
    ridge = 0.1
    head = solve_classes(vectors, labels.numpy(), classes, ridge)
    # Whitened by hand; scikit-learn's C is 1 / (ridge · examples), for a penalty of ridge/2·|W|².
    values, directions = np.linalg.eigh((vectors.double().T @ vectors.double() / 300).numpy())
    whitening = directions @ np.diag((values + SHRINKAGE * values.mean()) ** -0.5) @ directions.T
    rival = LogisticRegression(C=1 / (ridge * 300), fit_intercept=False, tol=1e-10, max_iter=10_000)
    rival.fit(vectors.double().numpy() @ whitening, labels.numpy())
    expected = rival.predict_proba(vectors.double().numpy() @ whitening)
    if (
        classes == 2
    ):  # scikit-learn has one vector for two classes; ours are its halves, with half the penalty
        rival.set_params(C=2 / (ridge * 300)).fit(vectors.double().numpy() @ whitening, labels.numpy())
        expected = rival.predict_proba(vectors.double().numpy() @ whitening)
    ours = (vectors @ head.T).softmax(dim=1).numpy()
    assert np.abs(ours - expected).max() < 5e-3


def test_scores_are_those_of_scikit_learn_and_torch():
    random = np.random.default_rng(0)
    logits, classes = random.normal(size=(50, 4)), random.integers(0, 4, 50)
    found = scores_of(logits, classes)
    assert found["macro_f1"] == pytest.approx(f1_score(classes, logits.argmax(1), average="macro"))
    assert found["accuracy"] == np.mean(logits.argmax(1) == classes)
    loss = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(classes))
    assert found["loss"] == pytest.approx(loss.item())
    assert scores_of(np.array([[1e4, -1e4]]), np.array([1]))["loss"] == pytest.approx(2e4)


def test_ids_are_those_of_autotokenizer_cut_and_not(base):
    texts = [*reviews(40), "", "the names <s> and </s> in a text", "x" * 300]
    tokenizer = AutoTokenizer.from_pretrained(base)
    for length in (16, 10_000):
        ours = Encoder(base / "tokenizer.json", length).encode(texts)
        theirs = tokenizer(texts, truncation=True, max_length=length)["input_ids"]
        assert ours == theirs


def test_batches_hold_every_sequence_once_with_little_padding():
    lengths = np.random.default_rng(1).integers(1, 200, 1000)
    random = np.random.default_rng(2)
    first, second = list(batches(lengths, 16, random)), list(batches(lengths, 16, random))
    for cut in (first, second, list(batches(lengths, 16))):
        assert sorted(np.concatenate(cut).tolist()) == list(range(1000))
        padded = sum(len(part) * lengths[part].max() for part in cut)
        assert padded < 1.15 * lengths.sum()
    assert np.concatenate(first).tolist() != np.concatenate(second).tolist()


def test_features_do_not_depend_on_the_batch_that_a_sequence_is_in(base):
    from small_task import small_shape

    kind = Classify(("a", "b"))
    network = build(small_shape(600))
    network.init_weights(0)
    model = kind.model(network, "mean")
    data = kind.encode([Example(text, "a") for text in reviews(70)], Encoder(base / "tokenizer.json", 40))
    together = features_of(model, kind, data, pad=3)
    for i in (0, 35, 69):
        alone = features_of(model, kind, data.take(np.array([i])), pad=3)
        torch.testing.assert_close(together[i], alone[0], rtol=1e-4, atol=1e-5)


def test_the_cache_computes_once_and_forgets_the_oldest():
    cache, calls = FeatureCache(entries=2), []

    def compute(name: str) -> torch.Tensor:
        return cache.get((name,), lambda: calls.append(name) or torch.zeros(1))

    for name in "aababcbca":
        compute(name)
    assert "".join(calls) == "abca"


def test_heads_of_labels_and_of_numbers_find_what_made_the_targets():
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(400, 5, generator=generator) * torch.tensor([1.0, 10.0, 0.1, 1.0, 1.0]) + 1
    true = torch.randn(2, 5, generator=generator)
    has = (vectors @ true.T > 0).float().numpy()
    found = vectors @ solve_labels(vectors, has, ridge=1e-4).T
    assert ((found > 0).numpy() == (has > 0)).mean() > 0.98
    numbers = vectors @ true[0]
    assert (vectors @ solve_numbers(vectors, numbers, ridge=1e-8)[0] - numbers).abs().max() < 1e-2
    assert (vectors @ constant_of(vectors) - 1).square().mean() < 0.5


def test_packed_rows_hold_every_sequence_once_and_have_the_loss_of_padded_ones():
    from small_task import small_shape

    random = np.random.default_rng(0)
    lengths = random.integers(4, 40, 24)
    ids = random.integers(4, 600, lengths.sum()).astype(np.int32)
    targets = np.where(random.random(len(ids)) < 0.5, np.roll(ids, -1), -100)
    data = Encoded(ids, starts_of(lengths), targets.astype(np.int64), of_tokens=True)
    places = np.arange(24)
    ids, starts, targets = data.packed(places, pad=3)
    padded = data.padded(places, pad=3)
    assert len(ids) <= 16
    assert ids.size < 1.15 * lengths.sum()
    assert sorted(ids[ids != 3].tolist()) == sorted(padded[0][padded[0] != 3].tolist())
    assert (targets != -100).sum() == (padded[2] != -100).sum()
    network = build(small_shape(600))
    network.init_weights(0)
    with torch.no_grad():
        together = network(*map(torch.from_numpy, (ids, targets)), starts=torch.from_numpy(starts))
        apart = network(torch.from_numpy(padded[0]), torch.from_numpy(padded[2]))
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("chosen", "columns"), [([0], 8), ([1], 8), ([2], 16), ([0, 2], 16), ([3], 29)])
def test_batches_have_few_different_lengths_and_none_beyond_what_the_examples_have(chosen, columns):
    lengths = [3, 8, 9, 29]
    targets = np.arange(sum(lengths))
    data = Encoded(np.arange(1, sum(lengths) + 1), starts_of(lengths), targets, of_tokens=True)
    ids, own, targets = data.padded(np.array(chosen), pad=0)
    assert ids.shape == targets.shape == (len(chosen), columns)
    assert own.tolist() == [lengths[i] for i in chosen]
    assert (ids != 0).sum() == (targets != -100).sum() == own.sum()
    assert data.packed(np.array(chosen), pad=0)[0].shape[1] == columns
