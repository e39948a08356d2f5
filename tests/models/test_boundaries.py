"""Documents that are packed into one sequence: each is to the network what it would be alone."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from uneven import spread

from raypretrain.models import attention
from raypretrain.models.config import ModelConfig
from raypretrain.models.families import build
from raypretrain.models.shape import ModelShape

MASK, IGNORED, VOCABULARY, LENGTH = 4, -100, 300, 300
ROWS = [[30, 1, 140, 129], [300], [128, 128, 44], [5, 6, 7, 282]]
"""Documents by their lengths; attention on CPUs goes by 128 queries."""

SIZES = {"width": 32, "layers": 3, "heads": 4, "feed_forward": 48}


def shape_of(preset: str, **own: int) -> ModelShape:
    return ModelConfig(preset=preset, **SIZES, **own).shape(VOCABULARY, LENGTH)


SHAPES = {
    "llama": shape_of("llama-1m", key_value_heads=2),
    "gpt2": shape_of("gpt2-1m"),
    "bert": shape_of("bert-1m"),
    "modernbert": shape_of("modernbert-1m", local_attention=16),
    "esm2": replace(shape_of("esm2-1m"), mask_token=MASK),
}


@pytest.fixture(params=SHAPES)
def shape(request) -> ModelShape:
    return SHAPES[request.param]


def flash(query, key, value, begins, key_begins, longest, longest_key, *, window_size, enable_gqa):
    """What torch's ``varlen_attn``, which needs a GPU, says that it computes."""
    assert begins is key_begins
    assert begins.dtype == torch.int32
    lengths = begins.diff()
    assert lengths.min() >= 1
    assert max(longest, longest_key) >= lengths.max()
    assert enable_gqa == (query.shape[1] != key.shape[1])
    before, after = (side if side >= 0 else longest for side in window_size)
    outputs = []
    for begin, end in itertools.pairwise(begins.tolist()):
        q, k, v = (x[begin:end].transpose(0, 1) for x in (query, key, value))
        k, v = (x.repeat_interleave(len(q) // len(k), dim=0) for x in (k, v))
        seen = torch.ones(end - begin, end - begin, dtype=torch.bool).tril(after).triu(-before)
        scores = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf)
        outputs.append((scores.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(outputs)


@pytest.fixture(params=["by blocks", "by torch", "by documents"])
def way(request, monkeypatch: pytest.MonkeyPatch) -> str:
    """All ways to compute attention, whatever the lengths and the device."""
    if request.param != "by blocks":
        monkeypatch.setattr(attention, "by_blocks", lambda *_: False)
    if request.param == "by documents":
        monkeypatch.setattr(attention, "_has_flash", lambda *_: True)
        monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", flash)
    return request.param


def _packed() -> tuple[torch.Tensor, torch.Tensor]:
    """ids and starts [4, 300]; some tokens are the mask."""
    ids = torch.randint(5, VOCABULARY, (len(ROWS), LENGTH), generator=torch.Generator().manual_seed(2))
    ids = ids.masked_fill(torch.rand(ids.shape, generator=torch.Generator().manual_seed(3)) < 0.2, MASK)
    starts = torch.zeros_like(ids)
    for row, lengths in enumerate(ROWS):
        column = 0
        for length in lengths:
            starts[row, column : column + length] = column
            column += length
    return ids, starts


def _documents():
    """Row, begin and end of each."""
    for row, lengths in enumerate(ROWS):
        begin = 0
        for length in lengths:
            yield row, begin, begin + length
            begin += length


def test_the_logits_of_a_packed_document_are_those_of_the_document_alone(shape, way):
    model = spread(build(shape))
    ids, starts = _packed()
    with torch.no_grad():
        packed = model(ids, starts=starts)
        together = model(ids)
        for row, begin, end in _documents():
            alone = model(ids[row : row + 1, begin:end])[0]
            scale = alone.abs().max()
            assert (packed[row, begin:end] - alone).abs().max() < 1e-5 * scale, (row, begin)
        # Without the boundaries they see each other.
        assert (together[0, 171:] - packed[0, 171:]).abs().max() > 1e-2
        torch.testing.assert_close(together[1], packed[1], rtol=1e-4, atol=1e-4)


def test_loss_and_gradients_are_the_sums_over_the_documents(shape, way):
    model = spread(build(shape)).double()
    ids, starts = _packed()
    targets = ids.masked_fill(torch.arange(LENGTH) % 3 > 0, IGNORED)
    each = torch.zeros(ids.shape)
    loss = model(ids, targets, each, starts)
    loss.backward()
    packed = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    total, number = 0.0, int((targets != IGNORED).sum())
    for row, begin, end in _documents():
        own = targets[row : row + 1, begin:end]
        count = int((own != IGNORED).sum())
        if count:
            part = model(ids[row : row + 1, begin:end], own) * (count / number)
            part.backward()
            total += part.item()
    assert loss.item() == pytest.approx(total, rel=1e-9)
    assert each[targets != IGNORED].mean().item() == pytest.approx(total, rel=1e-5)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(packed[name], weight.grad, rtol=1e-6, atol=1e-9, msg=name)
