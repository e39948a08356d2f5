"""Fingerprints of parameters: no single bit may change unseen."""

from __future__ import annotations

import pytest
import torch

from raypretrain.training.replicas import fingerprint_of_tensors

INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}


def parameters(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = [(3,), (50, 7), (70_001,), (2, 32_768), ()]
    return [torch.randn(size, generator=generator).to(dtype) for size in sizes]


def flip(tensor: torch.Tensor, place: int, bit: int) -> None:
    integer = INTEGERS[tensor.dtype]
    bits = tensor.view(-1).view(integer)
    bits[place] ^= torch.tensor(1, dtype=integer) << bit


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_flipped_bit_gives_another_fingerprint_and_the_flip_back_the_first(dtype: torch.dtype) -> None:
    made = parameters(dtype)
    first = fingerprint_of_tensors(made)
    seen = {first}
    for tensor in made:
        for place in {0, tensor.numel() // 2, tensor.numel() - 1}:
            for bit in range(8 * tensor.element_size()):
                flip(tensor, place, bit)
                seen.add(fingerprint_of_tensors(made))
                flip(tensor, place, bit)
    flips = sum(len({0, t.numel() // 2, t.numel() - 1}) * 8 * t.element_size() for t in made)
    assert len(seen) == 1 + flips
    assert fingerprint_of_tensors(made) == first
    assert -(2**63) <= first < 2**63


def test_two_flips_of_the_same_bit_do_not_cancel_each_other() -> None:
    made = parameters(torch.float32)
    first = fingerprint_of_tensors(made)
    for other in range(1, 200):
        flip(made[2], 0, 31)
        flip(made[2], other, 31)
        assert fingerprint_of_tensors(made) != first
        flip(made[2], 0, 31)
        flip(made[2], other, 31)


def test_numbers_and_tensors_that_change_places_are_seen() -> None:
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    found = {fingerprint_of_tensors(x) for x in ([a, b], [b, a], [a.flip(0), b], [torch.cat([b, a])])}
    assert len(found) == 4


def test_nan_and_views_into_a_larger_buffer_are_read_by_their_bits() -> None:
    buffer = torch.arange(101, dtype=torch.float32)
    buffer[7] = torch.nan
    assert fingerprint_of_tensors([buffer[1:100]]) == fingerprint_of_tensors([buffer[1:100].clone()])
    assert fingerprint_of_tensors([]) == 0
