"""Near the base: the pull while training, and the way from the base to what was trained."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from base_runs import make_run, network_of, text_of
from torch import nn

from raypretrain.errors import InputError, RecipeError
from raypretrain.finetuning.anchor import SHARES, Anchor, blend, pick, sweep
from raypretrain.finetuning.base import pack, unpack
from raypretrain.finetuning.forgetting import forgotten, recall


@pytest.fixture(scope="module", params=["llama-1m", "bert-1m"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp(request.param), request.param)


def moved(network: nn.Module, far: float = 0.1) -> None:
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight += far * torch.randn(weight.shape, generator=chance)


def test_the_pull_is_the_gradient_of_the_penalty_but_for_the_optimizer(run: Path) -> None:
    """Of plain gradient descent both are one: L2-SP's own formula."""
    one, other = network_of(run), network_of(run)
    base = {name: weight.clone() for name, weight in one.state_dict().items()}
    strength, rate = 0.3, 0.05
    anchor = Anchor(one, base, strength)
    for network in (one, other):
        moved(network)
    descent = torch.optim.SGD(one.parameters(), lr=rate)
    anchor.pull(descent)
    penalty = sum((weight - base[name]).square().sum() for name, weight in other.named_parameters()) * (
        strength / 2
    )
    assert isinstance(penalty, torch.Tensor)
    penalty.backward()
    torch.optim.SGD(other.parameters(), lr=rate).step()
    for name, weight in one.named_parameters():
        torch.testing.assert_close(weight, other.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_each_group_is_drawn_by_its_own_rate_and_the_head_not_at_all(run: Path) -> None:
    network, head = network_of(run), nn.Linear(32, 3)
    base = {name: weight.clone() for name, weight in network.state_dict().items()}
    frozen, slow, *fast = network.named_parameters()
    frozen[1].requires_grad_(False)
    whole = nn.ModuleDict({"network": network, "head": head})
    anchor = Anchor(network, base, strength=2.0)
    moved(whole)
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    of_head = [weight.detach().clone() for weight in head.parameters()]
    groups = [
        {"params": [slow[1]], "lr": 0.01},
        {"params": [weight for _, weight in fast], "lr": 0.1},
        {"params": [frozen[1], *head.parameters()], "lr": 0.1},
    ]
    anchor.pull(torch.optim.AdamW(groups))
    rates = {frozen[0]: 0.0, slow[0]: 0.01} | {name: 0.1 for name, _ in fast}
    for name, weight in network.named_parameters():
        wanted = before[name] + 2.0 * rates[name] * (base[name] - before[name])
        torch.testing.assert_close(weight.detach(), wanted)
    assert all(map(torch.equal, head.parameters(), of_head))


def test_a_pull_of_more_than_the_whole_way_ends_at_the_base(run: Path) -> None:
    network = network_of(run)
    base = {name: weight.clone() for name, weight in network.state_dict().items()}
    anchor = Anchor(network, base, strength=1e4)
    moved(network)
    anchor.pull(torch.optim.SGD(network.parameters(), lr=1.0))
    assert all(torch.equal(weight, base[name]) for name, weight in network.named_parameters())


def test_the_shared_base_is_not_copied(run: Path) -> None:
    """Its memory may be read-only, as what Ray's object store gives."""
    network = network_of(run)
    packed = pack(network_of(run).state_dict())
    for array, _ in packed.values():
        array.setflags(write=False)
    base = unpack(packed)
    anchor = Anchor(network, base, strength=0.5)
    held = {weight.data_ptr() for weight in anchor._base.values()}
    assert held == {base[name].data_ptr() for name, _ in network.named_parameters()}
    moved(network)
    anchor.pull(torch.optim.SGD(network.parameters(), lr=0.1))
    assert all(torch.equal(weight, base[name]) for name, weight in network_of(run).named_parameters())


def test_a_base_in_bfloat16_holds_weights_in_fp32(run: Path) -> None:
    network = network_of(run)
    base = {name: weight.bfloat16() for name, weight in network.state_dict().items()}
    anchor = Anchor(network, base, strength=1.0)
    moved(network)
    anchor.pull(torch.optim.SGD(network.parameters(), lr=1.0))
    assert all(torch.equal(w, base[name].float()) for name, w in network.named_parameters())


def test_where_no_weight_of_the_base_is_trained_there_is_nothing_to_hold(run: Path) -> None:
    network = network_of(run)
    base = dict(network.state_dict())
    network.requires_grad_(False)
    with pytest.raises(RecipeError, match="trains none of them"):
        Anchor(network, base, strength=1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_ends_of_the_way_are_exact_and_its_middle_is_the_mean(run: Path, dtype: torch.dtype) -> None:
    network = network_of(run)
    base = {name: weight.to(dtype, copy=True) for name, weight in network.state_dict().items()}
    moved(network)
    tuned = network.state_dict()
    ends, middle = [blend(base, tuned, share) for share in (0.0, 1.0)], blend(base, tuned, 0.5)
    for name, weight in tuned.items():
        assert torch.equal(ends[0][name], base[name].float())
        assert torch.equal(ends[1][name], weight)
        torch.testing.assert_close(middle[name], (base[name].float() + weight) / 2)
        assert middle[name].dtype == torch.float32


def test_weights_of_another_model_are_refused_in_one_line(run: Path) -> None:
    tuned = dict(network_of(run).state_dict())
    name = min(tuned)
    with pytest.raises(InputError, match=f"the weight '{name}' is not there in the base"):
        blend({n: w for n, w in tuned.items() if n != name}, tuned, 0.5)
    with pytest.raises(InputError, match=rf"the weight '{name}' is \[.*\] in the base, \[1\] tuned"):
        blend(tuned, tuned | {name: torch.zeros(1)}, 0.5)


def test_a_sweep_looks_at_every_share_and_leaves_what_was_trained(run: Path) -> None:
    network, text = network_of(run), text_of(run)
    base = {name: weight.clone() for name, weight in network.state_dict().items()}
    before = recall(network, text)
    moved(network, far=0.5)
    tuned = {name: weight.clone() for name, weight in network.state_dict().items()}
    rows = sweep(network, base, SHARES, lambda: forgotten(before, recall(network, text)))
    assert [row["share"] for row in rows] == list(SHARES)
    assert rows[0]["forgetting"] == 0
    assert rows[-1] == {"share": 1.0, **forgotten(before, recall(network, text))}
    assert rows[-1]["forgetting"] > rows[1]["forgetting"]
    other = network_of(run)
    other.load_state_dict(blend(base, tuned, 0.3))
    assert recall(other, text)["nats"] == rows[3]["tuned_nats"]
    assert all(torch.equal(weight, tuned[name]) for name, weight in network.state_dict().items())


def test_a_sweep_that_fails_leaves_what_was_trained_too(run: Path) -> None:
    network = network_of(run)
    base = {name: torch.zeros_like(weight) for name, weight in network.state_dict().items()}

    def fail() -> dict[str, float]:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        sweep(network, base, [0.5], fail)
    assert all(torch.equal(w, network.state_dict()[name]) for name, w in network_of(run).state_dict().items())


ROWS = [
    {"share": 0.0, "validation_accuracy": 0.5, "validation_loss": 0.9, "forgetting": 0.0},
    {"share": 0.4, "validation_accuracy": 0.8, "validation_loss": 0.5, "forgetting": 0.1},
    {"share": 0.6, "validation_accuracy": 0.8, "validation_loss": 0.4, "forgetting": 0.3},
    {"share": 1.0, "validation_accuracy": 0.9, "validation_loss": 0.45, "forgetting": 0.9},
    {"share": 1.1, "validation_accuracy": math.nan, "validation_loss": math.nan, "forgetting": 0.0},
]


@pytest.mark.parametrize(
    ("metric", "larger", "most", "share"),
    [
        ("validation_accuracy", True, None, 1.0),
        ("validation_accuracy", True, 0.5, 0.4),
        ("validation_accuracy", True, 0.05, 0.0),
        ("validation_loss", False, None, 0.6),
        ("validation_loss", False, 0.1, 0.4),
        ("validation_loss", False, -1.0, None),
    ],
)
def test_the_best_of_those_that_forgot_little_enough_is_picked(
    metric: str, larger: bool, most: float | None, share: float | None
) -> None:
    found = pick(ROWS, metric, larger, most)
    assert (found and found["share"]) == share


def test_without_a_bound_forgetting_need_not_be_measured() -> None:
    rows = [{"share": 0.5, "validation_accuracy": 0.7}, {"share": 1.0, "validation_accuracy": 0.6}]
    assert pick(rows, "validation_accuracy", True) == rows[0]
