"""Documents that are packed into one sequence: each is to the network what it would be alone."""

from __future__ import annotations

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


@pytest.fixture(params=["by blocks", "by torch"])
def way(request, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to compute attention, whatever the lengths."""
    if request.param == "by torch":
        monkeypatch.setattr(attention, "_by_blocks", lambda *_: False)
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
