"""The chunked loss against torch's own cross-entropy."""

import pytest
import torch
from torch.nn import functional as F

from raypretrain.models.loss import IGNORED, linear_cross_entropy


def _inputs(rows: int, width: int, vocabulary: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, width, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, vocabulary, (rows,), generator=generator)
    targets[::3] = IGNORED
    return hidden, weight, targets


def _both(hidden, weight, targets, chunk, factor=1.0):
    """Loss and gradients of ours and of torch's."""
    results = []
    for compute in (
        lambda: linear_cross_entropy(hidden, weight, targets, chunk),
        lambda: F.cross_entropy(F.linear(hidden, weight), targets, ignore_index=IGNORED),
    ):
        loss = compute()
        gradients = torch.autograd.grad(loss * factor, (hidden, weight))
        results.append((loss.detach(), *gradients))
    return results


@pytest.mark.parametrize("rows", [1, 4, 7, 16, 33])
@pytest.mark.parametrize("chunk", [1, 4, 16, 100])
def test_loss_and_gradients_are_torchs_for_every_chunk(rows, chunk):
    hidden, weight, targets = _inputs(rows, 8, 50, torch.float64)
    targets[-1] = 3  # at least one counts
    ours, theirs = _both(hidden, weight, targets, chunk, factor=1.7)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-12, atol=1e-13)


def test_in_fp32_loss_and_gradients_agree_to_rounding():
    ours, theirs = _both(*_inputs(300, 32, 1000, torch.float32), 128)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=2e-5, atol=1e-6)


def test_in_bf16_the_gradients_are_as_good_as_torchs():
    """Measured against fp64 on the same rounded inputs: chunks must not add rounding of their own."""
    hidden, weight, targets = _inputs(2048, 32, 500, torch.bfloat16)
    ours, theirs = _both(hidden, weight, targets, 64)
    exact_inputs = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    exact = _both(*exact_inputs, targets, 4096)[1]
    assert ours[0].dtype == torch.float32
    for mine, reference, truth in zip(ours, theirs, exact, strict=True):
        error = (mine.double() - truth).norm() / truth.norm()
        assert error <= 1.2 * (reference.double() - truth).norm() / truth.norm() + 1e-4


def test_extreme_logits_give_finite_losses():
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.0]], requires_grad=True)
    targets = torch.tensor([1, 0])
    ours, theirs = _both(hidden, weight, targets, 1)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference)
    assert ours[0] == 2e4


def test_without_a_target_that_counts_the_loss_is_nan_as_torchs():
    hidden, weight, targets = _inputs(4, 3, 5, torch.float32)
    assert torch.isnan(linear_cross_entropy(hidden, weight, torch.full_like(targets, IGNORED)))


def test_evaluation_computes_no_gradient():
    hidden, weight, targets = _inputs(20, 8, 50, torch.float32)
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, targets, 8)
    assert loss.grad_fn is None
    torch.testing.assert_close(loss, F.cross_entropy(F.linear(hidden, weight), targets).detach())


def test_a_frozen_weight_gets_no_gradient():
    hidden, weight, targets = _inputs(20, 8, 50, torch.float32)
    linear_cross_entropy(hidden, weight.detach(), targets, 8).backward()
    reference = torch.autograd.grad(F.cross_entropy(F.linear(hidden, weight), targets), hidden)[0]
    torch.testing.assert_close(hidden.grad, reference)


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("rows", [1, 7, 33])
def test_a_bias_is_part_of_the_loss_and_learns(rows, chunk):
    hidden, weight, targets = _inputs(rows, 8, 50, torch.float64)
    targets[-1] = 3
    bias = torch.randn(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    inputs = (hidden, weight, bias)
    ours = linear_cross_entropy(hidden, weight, targets, chunk, bias=bias)
    theirs = F.cross_entropy(F.linear(*inputs), targets, ignore_index=IGNORED)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    gradients = [torch.autograd.grad(loss * 1.7, inputs) for loss in (ours, theirs)]
    for mine, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-12, atol=1e-13)
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(hidden, weight, targets, chunk, bias=bias), theirs)


def test_a_bias_that_alone_learns_gets_its_gradient():
    hidden, weight, targets = (x.detach() for x in _inputs(20, 8, 50, torch.float32))
    bias = torch.zeros(50, requires_grad=True)
    linear_cross_entropy(hidden, weight, targets, 8, bias=bias).backward()
    reference = torch.autograd.grad(F.cross_entropy(F.linear(hidden, weight, bias), targets), bias)[0]
    torch.testing.assert_close(bias.grad, reference)


def test_in_bf16_a_biass_gradient_is_summed_in_fp32():
    """A column of the slope holds thousands of small numbers: summed in bf16, the last ones would be lost."""
    hidden, weight, targets = _inputs(4096, 8, 20, torch.bfloat16)
    bias = torch.zeros(20, dtype=torch.bfloat16, requires_grad=True)
    linear_cross_entropy(hidden, weight, targets, 256, bias=bias).backward()
    exact = [x.detach().double() for x in (hidden, weight)]
    truth_bias = torch.zeros(20, dtype=torch.float64, requires_grad=True)
    F.cross_entropy(F.linear(*exact, truth_bias), targets, ignore_index=IGNORED).backward()
    assert bias.grad.dtype == torch.bfloat16
    assert (bias.grad.double() - truth_bias.grad).norm() < 2**-8 * truth_bias.grad.norm()


@pytest.mark.parametrize("chunk", [4, 100])
def test_z_loss_is_in_the_gradients_and_not_in_the_loss(chunk):
    hidden, weight, targets = _inputs(33, 8, 50, torch.float64)
    bias = torch.randn(50, dtype=torch.float64, requires_grad=True)
    ours = linear_cross_entropy(hidden, weight, targets, chunk, bias=bias, z_loss=0.05)
    logits = F.linear(hidden, weight, bias)
    plain = F.cross_entropy(logits, targets, ignore_index=IGNORED)
    torch.testing.assert_close(ours, plain)
    whole = plain + 0.05 * logits[targets != IGNORED].logsumexp(dim=-1).square().mean()
    for mine, wanted, without in zip(
        *(
            torch.autograd.grad(loss, (hidden, weight, bias), retain_graph=True)
            for loss in (ours, whole, plain)
        ),
        strict=True,
    ):
        torch.testing.assert_close(mine, wanted, rtol=1e-12, atol=1e-13)
        assert (wanted - without).abs().max() > 1e-3
