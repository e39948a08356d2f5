"""Forgetting: the numbers of the base's own evaluation, and their differences."""

from __future__ import annotations

import math
import pickle
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from base_runs import LENGTH, make_run, network_of, text_of
from torch.nn import functional as F

from raypretrain.finetuning.base_text import BaseText
from raypretrain.finetuning.forgetting import forgotten, recall
from raypretrain.finetuning.replay import Replay
from raypretrain.tokens.objectives import Masked
from raypretrain.training.evaluation import examples, starts_of
from raypretrain.training.loop import evaluate
from raypretrain.training.metrics import read_log
from raypretrain.training.microbatch import MicroBatch, Place


@pytest.fixture(scope="module", params=["llama-1m", "bert-1m", "modernbert-1m"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp(request.param), request.param)


def logged(network: Any, text: BaseText) -> dict[str, Any]:
    """The row of ``evaluations.jsonl`` that a run writes."""
    rows: list[dict[str, Any]] = []

    class Engine:
        @torch.no_grad()
        def loss(self, part: MicroBatch) -> torch.Tensor:
            found: torch.Tensor = network(part.ids, part.targets, None, part.starts)
            return found

    engine: Any = Engine()
    hooks: Any = SimpleNamespace(phase=print, gather=lambda own: own[None], log_evaluation=rows.append)
    place = Place(0, 1, 2, torch.device("cpu"), text.objective, text.boundaries, micro_batches=1)
    evaluate(engine, text.held_out, 0, 0, place, hooks)
    return rows[0]


def test_of_an_untouched_base_it_is_what_its_run_logs(run: Path) -> None:
    network, text = network_of(run), text_of(run)
    found, row = recall(network, text), logged(network, text)
    of_sources = zip(text.names, row["sources"].values(), strict=True)
    wanted = {name: (own["loss"], own["bits_per_byte"]) for name, own in of_sources}
    wanted["all"] = row["held_out_loss"], row["held_out_bits_per_byte"]
    measured = found["sources"] | {"all": found}
    assert list(measured) == ["prose", "code", "all"]
    for name, (nats, per_byte) in wanted.items():
        assert measured[name]["nats"] == pytest.approx(nats, rel=1e-6)
        assert (per_byte is None) == isinstance(text.objective, Masked)
        assert measured[name]["bits_per_byte"] == (per_byte and pytest.approx(per_byte, rel=1e-6))


def test_the_numbers_are_the_bare_formula(run: Path) -> None:
    network, text = network_of(run), text_of(run)
    found, sums = recall(network, text, batch=3), []
    for part in text.held_out.parts().values():
        ids, targets = (torch.from_numpy(values) for values in examples(part, text.objective))
        with torch.no_grad():
            logits = network(ids, starts=torch.from_numpy(starts_of(part)))
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        sums.append((float(losses.sum()), int((targets != -100).sum()), part.bytes))
    nats, targets, size = (sum(column) for column in zip(*sums, strict=True))
    assert found["nats"] == pytest.approx(nats / targets, rel=1e-5)
    for (own, number, _), named in zip(sums, found["sources"].values(), strict=True):
        assert named["nats"] == pytest.approx(own / number, rel=1e-5)
    if not isinstance(text.objective, Masked):
        assert targets == len(text.held_out.tokens) * (LENGTH - 1)
        assert found["bits_per_byte"] == pytest.approx(nats / size / math.log(2), rel=1e-5)


def test_measuring_leaves_the_network_as_it_was_and_finds_the_same_again(run: Path) -> None:
    network, text = network_of(run), text_of(run)
    network.train()
    first = recall(network, text)
    assert network.training
    assert all(weight.grad is None for weight in network.parameters())
    network.eval()
    assert recall(network, text) == first
    assert not network.training


def test_a_tuned_network_forgot_what_its_loss_grew_by(run: Path) -> None:
    network, text = network_of(run), text_of(run)
    before = recall(network, text)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    after = recall(network, text)
    row = forgotten(before, after)
    assert row["base_nats"] == before["nats"]
    assert row["tuned_nats"] == after["nats"]
    assert row["forgetting"] == after["nats"] - before["nats"]
    assert row["forgetting"] > 0.01
    for name in ("prose", "code"):
        assert row[f"forgetting.{name}"] == after["sources"][name]["nats"] - before["sources"][name]["nats"]
    per_byte = {key: value for key, value in row.items() if "bits" in key}
    if isinstance(text.objective, Masked):
        assert per_byte == {}
    else:
        assert per_byte == {
            "base_bits_per_byte": before["bits_per_byte"],
            "tuned_bits_per_byte": after["bits_per_byte"],
        }


def test_one_source_is_no_list_of_sources(run: Path) -> None:
    text = text_of(run, path="prose.jsonl", held_out=0.3, sequences=3)
    found = recall(network_of(run), text)
    assert found["sources"] == {}
    assert set(forgotten(found, found)) >= {"base_nats", "tuned_nats", "forgetting"}
    assert forgotten(found, found)["forgetting"] == 0


def test_a_trial_takes_it_from_shared_memory_that_is_read_only(run: Path) -> None:
    """As Ray gives it: the arrays are outside of what is copied to each trial."""
    network, text = network_of(run), text_of(run, replay=100)
    arrays: list[pickle.PickleBuffer] = []
    rest = pickle.dumps(text, protocol=5, buffer_callback=arrays.append)
    assert len(rest) < 5000
    shared: BaseText = pickle.loads(rest, buffers=[bytes(array) for array in arrays])
    assert shared.replay is not None
    assert not shared.replay.tokens.flags.writeable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert recall(network, shared) == recall(network, text)
        assert Replay(shared, 4, 8, 1).loss(network, 3) == Replay(text, 4, 8, 1).loss(network, 3)


@pytest.mark.ray
def test_of_a_finished_run_it_is_the_last_line_of_its_evaluations(undisturbed: Path) -> None:
    row = read_log(undisturbed / "evaluations.jsonl")[-1]
    found = recall(network_of(undisturbed), text_of(undisturbed))
    assert found["nats"] == pytest.approx(row["held_out_loss"], rel=1e-3)
    assert found["bits_per_byte"] == pytest.approx(row["held_out_bits_per_byte"], rel=1e-3)
