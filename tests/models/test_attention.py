"""The blockwise attention against torch's own, and the positions."""

import pytest
import torch
from torch.nn import functional as F

from raypretrain.models import blockwise
from raypretrain.models.attention import Cache, bidirectional_attention, causal_attention
from raypretrain.models.rotary import Rotary, rotate


def _inputs(length: int, heads: int, key_value_heads: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    return [
        torch.randn(2, length, n, 6, generator=generator, dtype=dtype).requires_grad_()
        for n in (heads, key_value_heads, key_value_heads)
    ]


def _reference(query, key, value):
    heads_first = (x.transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(*heads_first, is_causal=True, enable_gqa=True).transpose(1, 2)


@pytest.mark.parametrize("length", [2, 3, 15, 16, 17, 48, 50])
@pytest.mark.parametrize(("heads", "key_value_heads"), [(4, 4), (4, 2), (6, 1)])
def test_blockwise_attention_and_its_gradients_are_torchs(length, heads, key_value_heads, monkeypatch):
    monkeypatch.setattr(blockwise, "BLOCK", 16)
    inputs = _inputs(length, heads, key_value_heads, torch.float64)
    ours, theirs = causal_attention(*inputs), _reference(*inputs)
    assert type(ours.grad_fn).__name__ == "BlockwiseAttentionBackward"
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=ours.dtype)
    gradients = [torch.autograd.grad(out, inputs, upstream) for out in (ours, theirs)]
    for mine, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-11)


def _seen_within(query, key, value, reach):
    places = torch.arange(query.shape[1])
    near = (places[:, None] - places).abs() <= reach
    heads_first = (x.transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(*heads_first, attn_mask=near).transpose(1, 2)


@pytest.mark.parametrize("reach", [1, 5, 16, 20, 40])
@pytest.mark.parametrize("length", [1, 2, 6, 16, 17, 41, 42, 50, 64])
@pytest.mark.parametrize("longest", [0, 1024])
def test_attention_within_reach_and_its_gradients_are_torchs(length, reach, longest, monkeypatch):
    monkeypatch.setattr(blockwise, "BLOCK", 16)
    monkeypatch.setattr(blockwise, "LONGEST_BLOCKWISE", longest)
    inputs = _inputs(length, 2, 2, torch.float64)
    ours, theirs = bidirectional_attention(*inputs, reach), _seen_within(*inputs, reach)
    by_blocks = type(ours.grad_fn).__name__ == "BlockwiseAttentionBackward"
    assert by_blocks == (longest > 0 and length > reach + 1)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=ours.dtype)
    gradients = [torch.autograd.grad(out, inputs, upstream) for out in (ours, theirs)]
    for mine, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-11)


def test_attention_without_a_limit_sees_all():
    inputs = _inputs(40, 2, 2, torch.float64)
    torch.testing.assert_close(bidirectional_attention(*inputs), _seen_within(*inputs, 39))


def test_a_window_is_taken_by_blocks_however_long_the_sequence_is(monkeypatch):
    monkeypatch.setattr(blockwise, "BLOCK", 16)
    monkeypatch.setattr(blockwise, "LONGEST_BLOCKWISE", 32)
    inputs = _inputs(100, 2, 2, torch.float32)
    for reach, blocks in ((8, True), (9, False)):  # a block of queries spans 32 keys, or 34
        found = type(bidirectional_attention(*inputs, reach).grad_fn).__name__
        assert (found == "BlockwiseAttentionBackward") == blocks


def test_in_bf16_blockwise_attention_errs_by_few_roundings():
    inputs = _inputs(512, 4, 2, torch.bfloat16)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    upstream = torch.randn(2, 512, 4, 6, generator=torch.Generator().manual_seed(1)).bfloat16()
    results = []
    for compute, given in ((causal_attention, inputs), (_reference, exact)):
        output = compute(*given)
        results.append((output.detach(), *torch.autograd.grad(output, given, upstream.to(output.dtype))))
    for mine, truth in zip(*results, strict=True):
        assert (mine.double() - truth).norm() < 4 * 2**-9 * truth.norm()


def test_beyond_the_longest_blockwise_length_torchs_kernel_is_used(monkeypatch):
    monkeypatch.setattr(blockwise, "LONGEST_BLOCKWISE", 16)
    inputs = _inputs(17, 4, 2, torch.float32)
    output = causal_attention(*inputs)
    assert "BlockwiseAttention" not in type(output.grad_fn).__name__
    torch.testing.assert_close(output, _reference(*inputs))


def test_queries_after_a_cache_see_every_earlier_position():
    query, key, value = _inputs(20, 4, 2, torch.float32)
    whole = causal_attention(query, key, value)
    for first in (5, 19):  # several new positions, and one
        torch.testing.assert_close(causal_attention(query[:, first:], key, value), whole[:, first:])


def test_the_cache_appends_layer_by_layer():
    cache = Cache()
    assert cache.length == 0
    for layer in (0, 1):
        cache.extend(layer, torch.zeros(1, 3, 2, 4), torch.zeros(1, 3, 2, 4))
    key, value = cache.extend(1, torch.ones(1, 2, 2, 4), torch.full((1, 2, 2, 4), 2.0))
    assert key.shape == value.shape == (1, 5, 2, 4)
    assert key[0, :, 0, 0].tolist() == [0, 0, 0, 1, 1]
    assert value[0, :, 0, 0].tolist() == [0, 0, 0, 2, 2]
    assert cache.length == 3  # as the first layer has it, until a forward pass is through


def test_rotated_products_depend_on_the_distance_alone():
    rotary = Rotary(8, 10_000.0)
    torch.manual_seed(0)
    query, key = (torch.randn(1, 1, 1, 8, dtype=torch.float64) for _ in range(2))

    def product(at: int, other: int) -> float:
        turned = (rotate(x, *rotary.tables(i, i + 1, x)) for x, i in ((query, at), (key, other)))
        first, second = turned
        return float((first * second).sum())

    assert product(7, 3) == pytest.approx(product(57, 53), rel=1e-5)
    assert product(7, 3) != pytest.approx(product(7, 4), rel=1e-2)


def test_positions_are_computed_in_fp32_whatever_the_dtype():
    """bf16 cannot tell position 1000 from 1001; the angles must not pass through it."""
    rotary = Rotary(8, 10_000.0)
    cos, sin = rotary.tables(0, 2000, torch.zeros(1, dtype=torch.bfloat16))
    assert cos.dtype == torch.bfloat16
    exact = torch.arange(2000).float()
    torch.testing.assert_close(cos[:, 0, 0].float(), exact.cos(), rtol=0, atol=4e-3)
    torch.testing.assert_close(sin[:, 0, 4].float(), exact.sin(), rtol=0, atol=4e-3)
