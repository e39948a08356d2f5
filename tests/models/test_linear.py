"""Matrix products by oneDNN against fp64, in every shape and layout that the model gives them."""

import pytest
import torch

from raypretrain.models import linear as module
from raypretrain.models.config import ModelConfig
from raypretrain.models.linear import Cpu, Linear, batched_product, linear, product
from raypretrain.models.llama import Llama

BACKWARD = "_LinearBackward"
with_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture(params=[True, False], ids=["AVX-512", "AVX2"])
def onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor where it is the faster one: for all products, or for rows times a weight."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setitem(module._ways, "cpu", lambda: Cpu(True, request.param, has_bf16=True))


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _gradients(x: torch.Tensor, weight: torch.Tensor, upstream: torch.Tensor) -> list[torch.Tensor]:
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = linear(x, weight)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), upstream.to(y.dtype))]


@pytest.mark.parametrize("sizes", [(40, 60), (60, 40), (64, 64), (1, 33), (500, 7)])
@pytest.mark.parametrize("rows", [(32,), (100,), (4, 25)])
def test_output_and_gradients_are_exact_to_fp32(onednn, rows, sizes):
    inputs, outputs = sizes
    x, weight, upstream = _random(*rows, inputs), _random(outputs, inputs), _random(*rows, outputs, seed=1)
    found = _gradients(x, weight, upstream)
    for mine, exact in zip(found, _gradients(x.double(), weight.double(), upstream), strict=True):
        assert mine.shape == exact.shape
        assert (mine.double() - exact).norm() < 1e-6 * exact.norm()


@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(
    "sizes", [(64, 40, 50), (50, 70, 300), (300, 33, 64), (3, 5, 4), (0, 4, 5), (5, 0, 4)]
)
def test_a_product_takes_matrices_and_their_transposes(onednn, sizes, transposed):
    rows, inner, columns = sizes
    left, right = (
        _random(*reversed(shape)).T if flip else _random(*shape)
        for shape, flip in zip(((rows, inner), (inner, columns)), transposed, strict=True)
    )
    found = product(left, right)
    assert found.shape == (rows, columns)
    torch.testing.assert_close(found.double(), left.double() @ right.double(), rtol=1e-5, atol=1e-5)


def test_noncontiguous_rows_and_gradients_are_read_as_they_are(onednn):
    x, weight = _random(50, 64).T, _random(40, 50)
    upstream = _random(1, 40).expand(64, 40)
    found = _gradients(x, weight, upstream)
    for mine, exact in zip(found, _gradients(x.double(), weight.double(), upstream), strict=True):
        torch.testing.assert_close(mine.double(), exact, rtol=1e-5, atol=1e-5)


def test_only_what_is_asked_for_gets_a_gradient(onednn):
    layer, x = Linear(40, 50), _random(64, 40)
    y = layer(x)
    assert type(y.grad_fn).__name__ == BACKWARD
    y.sum().backward()
    assert layer.weight.grad is not None
    layer.weight.requires_grad_(False)
    assert layer(x).grad_fn is None
    x.requires_grad_()
    layer.weight.grad = None
    layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None


def test_the_rows_are_not_kept_for_a_frozen_matrix(onednn):
    layer, x = Linear(40, 50), _random(64, 40).requires_grad_()
    assert layer(x).grad_fn.saved_tensors[0] is not None
    layer.weight.requires_grad_(False)
    assert layer(x).grad_fn.saved_tensors[0] is None


def test_a_few_rows_and_other_dtypes_are_torchs_own(onednn):
    layer = Linear(40, 50)
    assert type(layer(_random(31, 40)).grad_fn).__name__ != BACKWARD
    assert type(layer.double()(_random(64, 40).double()).grad_fn).__name__ != BACKWARD
    assert type(layer.bfloat16()(_random(64, 40).bfloat16()).grad_fn).__name__ != BACKWARD


@pytest.fixture
def without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor with AVX2 alone."""
    monkeypatch.setitem(module._ways, "cpu", lambda: Cpu(False, False, has_bf16=False))


def _assert_rounded(found: torch.Tensor, exact: torch.Tensor) -> None:
    """To the nearest number of bf16, but where fp32 lies on the other side of the middle."""
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-5)


def test_without_instructions_for_bf16_products_are_rounded_ones_of_fp32(without_bf16):
    x, weight, bias, upstream = (
        _random(*shape).bfloat16() for shape in ((4, 25, 40), (60, 40), (60,), (4, 25, 60))
    )
    found = _gradients(x, weight, upstream)
    for mine, exact in zip(found, _gradients(x.double(), weight.double(), upstream), strict=True):
        _assert_rounded(mine, exact)
    exact = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    _assert_rounded(linear(x, weight, bias), exact)
    left, right = x.flatten(0, 1), weight.T
    _assert_rounded(product(left, right), left.double() @ right.double())
    left, right = _random(3, 40, 50).bfloat16(), _random(3, 50, 7).bfloat16()
    _assert_rounded(batched_product(left, right), left.double() @ right.double())


def test_without_instructions_for_bf16_a_few_rows_are_torchs_own(without_bf16):
    layer = Linear(40, 50).bfloat16()
    assert type(layer(_random(32, 40).bfloat16()).grad_fn).__name__ == BACKWARD
    assert type(layer(_random(31, 40).bfloat16()).grad_fn).__name__ != BACKWARD
    assert type(layer.float()(_random(32, 40)).grad_fn).__name__ != BACKWARD


def _learned(
    cpu: Cpu, monkeypatch: pytest.MonkeyPatch, tied: bool, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """A model's loss and gradients, as on such a processor."""
    monkeypatch.setitem(module._ways, "cpu", lambda: cpu)
    sizes = ModelConfig(preset="llama-1m", width=64, heads=4, key_value_heads=2, layers=2, tied=tied)
    model = Llama(sizes.shape(300, 64))
    model.init_weights(0)
    model.to(dtype)
    ids = torch.randint(0, 300, (3, 65), generator=torch.Generator().manual_seed(0))
    loss = model(ids[:, :-1], ids[:, 1:])
    loss.backward()
    return {"loss": loss.detach(), **{name: p.grad for name, p in model.named_parameters()}}


@with_onednn
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_without_instructions_for_bf16_the_model_learns_the_same(monkeypatch, tied, fast):
    others = _learned(Cpu(False, False, has_bf16=True), monkeypatch, tied, torch.bfloat16)
    for name, mine in _learned(Cpu(fast, False, has_bf16=False), monkeypatch, tied, torch.bfloat16).items():
        other = others[name]
        assert mine.dtype == other.dtype, name
        assert (mine - other).float().norm() < 0.02 * other.float().norm(), name


@with_onednn
@pytest.mark.parametrize("all_products", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_the_models_loss_and_gradients_do_not_depend_on_the_library(monkeypatch, tied, all_products):
    others = _learned(Cpu(False, False, has_bf16=True), monkeypatch, tied, torch.float32)
    for name, mine in _learned(
        Cpu(True, all_products, has_bf16=True), monkeypatch, tied, torch.float32
    ).items():
        torch.testing.assert_close(mine, others[name], rtol=1e-4, atol=1e-6, msg=name)
        assert mine.is_contiguous(), name


@with_onednn
@pytest.mark.parametrize(
    ("level", "intels", "fast", "lacks"),
    [
        ("AVX512", False, True, True), ("AVX2", False, True, False), ("AVX512", True, False, False),
        ("AVX2", True, False, False), ("DEFAULT", False, False, False),
    ],
)  # fmt: skip
def test_who_multiplies_follows_from_the_processor(monkeypatch, level, intels, fast, lacks):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: level)
    monkeypatch.setattr(module, "_is_intels", lambda: intels)
    found = module.this_cpu.__wrapped__()
    assert (found.onednn_is_fast, found.mkl_lacks_avx512) == (fast, lacks)
