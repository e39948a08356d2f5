"""The contestants of the training step are as large as ours and, where they are called so, the same."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from raypretrain.models.config import ModelConfig
from raypretrain.models.families import build
from raypretrain.models.layout import to_huggingface

sys.path += [str(Path(__file__).parents[2] / "benchmarks"), str(Path(__file__).parents[1] / "models")]
import peers
from apart import Apart
from peak import data_sheet_peak
from peers_gpt2 import PlainGpt2, gpt2_flops_per_token
from profile_step import PARTS, flops_by_part, profile
from race import Time, in_turn, ratios
from sizes import SIZES, Work, work_of
from uneven import spread

GROUPED = ModelConfig(preset="llama-1m", width=64, layers=2, heads=4, key_value_heads=2, feed_forward=96)
SHAPES = {"nano": work_of("nano", "fp32").shape, "grouped keys": GROUPED.shape(300, 40)}


@pytest.fixture(params=SHAPES)
def shape(request) -> Any:
    return SHAPES[request.param]


def _rows(shape) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, shape.vocabulary, (3, 33), generator=torch.Generator().manual_seed(1))
    return ids[:, :-1], ids[:, 1:]


def _counted(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def test_transformers_network_has_our_parameters_and_our_loss(shape):
    model, theirs = spread(build(shape)), peers.transformers_llama(shape)
    missing = theirs.load_state_dict(to_huggingface(model.state_dict(), "llama"), strict=False)
    assert missing.missing_keys in ([], ["lm_head.weight"])
    assert not missing.unexpected_keys
    assert _counted(theirs) == shape.parameters
    inputs, _ = _rows(shape)
    expected = model(inputs[:, :-1], inputs[:, 1:])
    torch.testing.assert_close(theirs(input_ids=inputs, labels=inputs).loss, expected, rtol=1e-5, atol=1e-5)


def test_litgpts_network_has_our_parameters_and_our_loss(shape):
    pytest.importorskip("litgpt", reason="litgpt is not installed")
    from litgpt.utils import chunked_cross_entropy

    model, theirs = spread(build(shape)), peers.litgpt_llama(shape)
    theirs.load_state_dict(_as_litgpt(model.state_dict()))
    assert _counted(theirs) == shape.parameters
    inputs, targets = _rows(shape)
    loss = chunked_cross_entropy(theirs(inputs), targets)
    torch.testing.assert_close(loss, model(inputs, targets), rtol=1e-5, atol=1e-5)


def _as_litgpt(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our Llama's weights under litgpt's names."""
    embedding = state["embedding.weight"]
    found = {"transformer.wte.weight": embedding, "lm_head.weight": embedding}
    found["transformer.ln_f.weight"] = state["norm.weight"]
    names = {
        "attention_norm": "norm_1",
        "attention.output": "attn.proj",
        "feed_forward_norm": "norm_2",
        "feed_forward.gate": "mlp.fc_1",
        "feed_forward.up": "mlp.fc_2",
        "feed_forward.down": "mlp.proj",
    }
    for layer in range(sum(name.endswith("feed_forward.up.weight") for name in state)):
        block = f"blocks.{layer}."
        for ours, theirs in names.items():
            found[f"transformer.h.{layer}.{theirs}.weight"] = state[f"{block}{ours}.weight"]
        parts = [state[f"{block}attention.{part}.weight"] for part in ("query", "key", "value")]
        found[f"transformer.h.{layer}.attn.qkv.weight"] = torch.cat(parts)
    return found


def test_the_plain_gpt2_has_the_loss_of_a_gpt2_without_biases():
    shape = ModelConfig(preset="gpt2-1m", width=64, layers=3, heads=4, feed_forward=256).shape(300, 40)
    model, plain = spread(build(shape)), PlainGpt2(300, 40, 64, 3, 4)
    state = model.state_dict()
    for name, weight in state.items():
        if name.endswith("bias"):
            weight.zero_()
    names = {"attention.query_key_value": "query_key_value", "attention.output": "output"}
    names |= {"feed_forward.up": "up", "feed_forward.down": "down"}
    weights = {}
    for name, weight in state.items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        weights[name] = weight
    plain.load_state_dict({name: weight for name, weight in weights.items() if not name.endswith("bias")})
    inputs, targets = _rows(shape)
    torch.testing.assert_close(plain(inputs, targets), model(inputs, targets), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", ["10m", "30m", "llama-10m", "124m", "1b"])
def test_the_plain_gpt2_is_within_three_percent_of_our_parameters(size):
    work = work_of(size, "fp32")
    with torch.device("meta"):
        plain = PlainGpt2.as_large_as(work.shape, work.length)
    assert _counted(plain) == pytest.approx(work.shape.parameters, rel=0.03)
    ours = work.shape.flops_per_token(work.length)
    assert gpt2_flops_per_token(plain, work.length) == pytest.approx(ours, rel=0.05)


@pytest.mark.parametrize(("size", "millions"), [("10m", 10), ("30m", 30), ("124m", 124)])
def test_a_size_is_named_after_all_its_parameters(size, millions):
    assert work_of(size, "fp32").shape.parameters == pytest.approx(millions * 1e6, rel=0.07)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "name", [n for n in peers.ENTRIES if n != "Trainer" and not peers.ENTRIES[n].missing]
)
def test_a_step_moves_every_weight(name, precision):
    work = work_of("nano", precision)
    contestant = peers.ENTRIES[name].make(work, "eager")
    assert {weight.dtype for weight in contestant.model.parameters()} == {work.dtype}
    before = [weight.detach().clone() for weight in contestant.model.parameters()]
    contestant.step()
    unmoved = [
        key
        for old, (key, weight) in zip(before, contestant.model.named_parameters(), strict=True)
        if torch.equal(old, weight) and (weight.ndim == 2 or precision == "fp32")  # 1.0001 is 1 in bf16
    ]
    assert not unmoved


@pytest.mark.slow
def test_the_trainer_takes_one_step_at_a_time_and_ends():
    contestant = peers.ENTRIES["Trainer"].make(work_of("nano", "fp32"), "eager")
    weights = list(contestant.model.parameters())
    seen = [[weight.detach().clone() for weight in weights]]
    for _ in range(2):
        contestant.step()
        seen.append([weight.detach().clone() for weight in weights])
    assert not torch.equal(seen[0][0], seen[1][0])
    assert not torch.equal(seen[1][0], seen[2][0])
    contestant.close()
    assert contestant.parameters == work_of("nano", "fp32").shape.parameters


def test_who_is_not_installed_is_left_out_with_a_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert peers.taking_part(["transformers", "nanoGPT-style"]) == ["ours", "nanoGPT-style"]
    said = capsys.readouterr().out
    assert said == "transformers is left out: transformers is not installed (pip install transformers)\n"
    with pytest.raises(SystemExit, match="no peer 'nanogpt'; known: transformers, Trainer"):
        peers.taking_part(["nanogpt"])


def test_times_are_taken_in_turn():
    work = work_of("nano", "fp32")
    times = in_turn(["ours", "nanoGPT-style"], ["eager"], work, rounds=3)
    assert [(each.name, each.form, len(each.seconds)) for each in times] == [
        ("ours", "eager", 3),
        ("nanoGPT-style", "eager", 3),
    ]
    assert times[0].parameters == work.shape.parameters


def test_what_fails_in_a_process_of_its_own_is_said_in_this_one():
    with pytest.raises(RuntimeError, match=r"^nobody, eager: KeyError: 'nobody'$"):
        Apart("nobody", work_of("nano", "fp32"), "eager")


def test_the_goals_are_for_ours_as_it_trains_by_default():
    def time(name: str, form: Any, seconds: float) -> Time:
        return Time(name, form, work_of("nano", "bf16"), 1, 1, 9.0, [seconds])

    times = [
        time("ours", "eager", 1),
        time("ours", "compiled", 0.5),
        time("x", "eager", 2),
        time("x", "compiled", 1),
    ]
    found = [(row.name, row.ratio, row.goal) for row in ratios(times, "nano", "compiled")]
    assert found == [
        ("ours ÷ x: nano", 2, None),
        ("ours, compiled ÷ x: nano", 4, 1.6),
        ("ours, compiled ÷ x, compiled: nano", 2, 1.1),
    ]


def test_the_parts_of_a_step_make_up_the_whole():
    work = Work(SHAPES["grouped keys"], 2, 40)
    found = profile(work, rounds=1, with_peer=True)
    assert set(found) == {"ours", "transformers"}
    for parts in found.values():
        assert set(parts) == {"all", *PARTS}
        assert min(parts.values()) > 0
        assert sum(parts[part] for part in PARTS) == pytest.approx(parts["all"])
    flops = flops_by_part(work.shape, 40)
    assert flops["all"] == work.shape.flops_per_token(40)
    attention = 64 * (2 * 64 + 2 * 32)  # query and output; key and value, of half as many heads
    assert flops["attention"] == 2 * (6 * attention + 12 * 64 * 40)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("AMD Instinct MI300X OAM", 1307.4e12),
        ("Some GPU", None),
    ],
)
def test_a_gpus_peak_is_found_by_its_name(name, peak):
    assert data_sheet_peak(name, torch.bfloat16) == peak
    assert data_sheet_peak(name, torch.float32) is None


def test_every_size_of_a_benchmark_is_one_that_can_be_built():
    for size in SIZES:
        work_of(size, "fp32").shape.check()
