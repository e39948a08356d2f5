"""How much of a cluster a run takes, and what is said where that is too little."""

from __future__ import annotations

import os
from typing import Any

import pytest

from raypretrain.errors import ClusterError
from raypretrain.training.cluster import (
    LEAST_STREAM_CPUS,
    Sizes,
    local_resources,
    look_seconds,
    micro_batch_of,
    most_workers,
    size_up,
)
from raypretrain.training.elastic import Trainer, scaling
from raypretrain.training.recipe import PretrainRecipe


def recipe(batch: int = 64, length: int = 512, **compute: Any) -> PretrainRecipe:
    return PretrainRecipe.model_validate(
        {
            "corpus": {"sources": [{"path": "x"}]},
            "training": {"global_batch": batch},
            "sequences": {"length": length},
            "compute": compute,
        }
    )


def sizes(cpus: float, gpus: int = 0, **settings: Any) -> Sizes:
    found = size_up(recipe(**settings), {"CPU": cpus, **({"GPU": gpus} if gpus else {})})
    # Whatever is asked for: the workers and the stream have room, and the batch can be shared.
    batch = settings.get("batch", 64)
    assert found.workers * found.cpus_per_worker + found.stream_cpus <= cpus + 1e-9
    assert found.stream_cpus > 0
    assert batch % found.workers == 0
    assert (batch // found.workers) % found.micro_batch == 0
    assert found.threads >= 1
    return found


def test_one_worker_on_two_cpus_gets_at_least_one() -> None:
    found = sizes(2)
    assert (found.workers, found.device, found.precision) == (1, "cpu", "fp32")
    assert found.cpus_per_worker >= 1
    assert found.stream_cpus >= LEAST_STREAM_CPUS


def test_two_workers_fit_on_two_cpus() -> None:
    found = sizes(2, workers=2)
    assert found.workers == 2
    assert found.cpus_per_worker >= 0.5
    assert found.threads == 1
    assert found.stream_cpus >= LEAST_STREAM_CPUS


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 8, 64])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_whatever_is_sized_up_leaves_the_stream_its_least(cpus: int, workers: int) -> None:
    if workers * 0.25 + LEAST_STREAM_CPUS > cpus:
        with pytest.raises(ClusterError):
            sizes(cpus, workers=workers)
        return
    found = sizes(cpus, workers=workers)
    assert found.stream_cpus >= LEAST_STREAM_CPUS - 1e-9
    assert found.cpus_per_worker * workers >= cpus / 2 or cpus < 2  # and wastes no machine


def test_too_many_workers_for_the_cpus_are_refused_with_what_they_need() -> None:
    with pytest.raises(ClusterError) as caught:
        sizes(2, workers=16)
    said = str(caught.value)
    assert said.startswith("compute.workers: 16 workers of 0.25 CPUs and 0.5 for the stream need 4.5 CPUs")
    assert "the cluster has 2;" in said
    assert "fewer workers" in said


def test_too_many_cpus_for_a_worker_are_refused() -> None:
    with pytest.raises(ClusterError, match=r"2 workers of 1 CPUs .* need 2\.5 CPUs, the cluster has 2"):
        sizes(2, workers=2, cpus_per_worker=1)
    assert sizes(2, workers=2, cpus_per_worker=0.75).cpus_per_worker == 0.75


@pytest.mark.parametrize(
    ("gpus", "batch", "workers"), [(1, 64, 1), (2, 64, 2), (3, 64, 2), (4, 6, 3), (8, 7, 7), (8, 12, 6)]
)
def test_as_many_gpus_as_divide_the_batch_are_taken(gpus: int, batch: int, workers: int) -> None:
    found = sizes(64, gpus, batch=batch)
    assert (found.workers, found.device, found.precision) == (workers, "cuda", "bf16")
    assert found.cpus_per_worker <= 4


def test_a_cluster_with_gpus_may_be_used_without_them() -> None:
    found = sizes(8, 4, device="cpu")
    assert (found.workers, found.device, found.precision) == (1, "cpu", "fp32")


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_too_many_workers_for_the_gpus_are_refused(device: str) -> None:
    with pytest.raises(ClusterError, match="4 workers need as many GPUs, the cluster has 2; take at most 2"):
        sizes(64, 2, workers=4, device=device)


@pytest.mark.parametrize("workers", [None, 1, 4])
def test_cuda_without_a_gpu_is_refused(workers: int | None) -> None:
    with pytest.raises(ClusterError, match=r"the cluster has 0.*compute\.device: cpu"):
        sizes(8, 0, workers=workers, device="cuda")


def test_the_micro_batch_is_the_largest_that_divides_the_share_within_what_was_asked() -> None:
    assert sizes(8, batch=24, workers=2, micro_batch=5).micro_batch == 4
    assert sizes(8, batch=24, workers=2, micro_batch=100).micro_batch == 12
    assert sizes(8, batch=14, workers=2, micro_batch=6).micro_batch == 1


def test_by_default_a_micro_batch_is_some_thousand_tokens() -> None:
    assert sizes(8, batch=64, length=512).micro_batch == 8
    assert sizes(8, batch=64, length=4096).micro_batch == 1
    assert sizes(8, batch=64, length=100_000).micro_batch == 1
    assert sizes(8, batch=2, length=64).micro_batch == 2


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_gpu_gets_larger_micro_batches_however_it_was_chosen(device: str) -> None:
    assert sizes(8, 1, batch=64, length=512, device=device).micro_batch == 32


def test_what_the_recipe_says_is_taken() -> None:
    found = sizes(16, workers=2, precision="bf16", cpus_per_worker=3, stream_cpus=5, micro_batch=2)
    assert found == Sizes(
        workers=2, device="cpu", precision="bf16", cpus_per_worker=3, threads=3, micro_batch=2, stream_cpus=5
    )


def test_the_stream_gets_what_the_workers_leave_and_no_more() -> None:
    assert sizes(4, workers=2, cpus_per_worker=1.5, stream_cpus=3).stream_cpus == 1


@pytest.mark.parametrize(
    ("cpus", "pair", "batch", "workers"),
    [(8, (1, 4), 64, 4), (2, (1, 4), 64, 1), (3, (1, 4), 64, 2), (9, (1, 8), 12, 6), (9, (5, 7), 7, 7)],
)
def test_of_a_pair_as_many_are_taken_as_fit_and_divide_the_batch(
    cpus: float, pair: tuple[int, int], batch: int, workers: int
) -> None:
    found = sizes(cpus, workers=pair, batch=batch, cpus_per_worker=1)
    assert (found.workers, found.elastic) == (workers, pair)


def test_less_than_the_least_of_a_pair_is_refused() -> None:
    with pytest.raises(ClusterError, match=r"2 workers of 1 CPUs .* the cluster has 2"):
        sizes(2, workers=(2, 4), cpus_per_worker=1)
    with pytest.raises(ClusterError, match="2 workers need as many GPUs, the cluster has 1"):
        sizes(8, 1, workers=(2, 4), device="cuda")


def test_a_worker_has_to_fit_on_one_node() -> None:
    with pytest.raises(ClusterError) as caught:
        size_up(recipe(cpus_per_worker=1.5), {"CPU": 1}, {"CPU": 1})
    said = str(caught.value)
    assert said.startswith("compute.workers: 1 worker of 1.5 CPUs and 0.5 CPUs for the stream do not fit on")
    assert "2 nodes of 1 CPU; a worker has to fit on one node" in said
    with pytest.raises(ClusterError, match=r"2 workers of 8 CPUs and 1 GPU .* 2 GPUs"):
        size_up(recipe(workers=2, cpus_per_worker=8), {"CPU": 8, "GPU": 2}, {"CPU": 16})


def test_unless_told_otherwise_a_worker_takes_what_fits_on_a_node() -> None:
    found = size_up(recipe(workers=2), {"CPU": 2}, {"CPU": 2}, {"CPU": 2})
    assert found.cpus_per_worker == 2
    assert size_up(recipe(), {"CPU": 2}, {"CPU": 1}).cpus_per_worker == 2
    beside_gpus = size_up(recipe(), {"CPU": 2, "GPU": 4}, {"CPU": 1})
    assert (beside_gpus.workers, beside_gpus.cpus_per_worker) == (4, 0.5)


def test_the_stream_has_a_node_with_room_for_its_least() -> None:
    with pytest.raises(ClusterError, match="do not fit on 2 nodes of 1 CPU"):
        size_up(recipe(workers=2, cpus_per_worker=0.75), {"CPU": 1}, {"CPU": 1})


def test_of_a_pair_as_many_are_taken_as_fit_on_the_nodes() -> None:
    assert size_up(recipe(workers=(1, 8), cpus_per_worker=2), *[{"CPU": 3}] * 4).workers == 4


def test_every_group_has_the_micro_batch_of_its_size() -> None:
    wide = recipe(batch=24, workers=(1, 4), micro_batch=100)
    assert [micro_batch_of(wide, "cpu", workers) for workers in (1, 2, 3, 4)] == [24, 12, 8, 6]


@pytest.mark.parametrize(
    ("batch", "least", "most", "workers"), [(12, 1, 5, 4), (12, 5, 5, 0), (12, 1, 0, 0), (7, 2, 16, 7)]
)
def test_only_numbers_that_divide_the_batch_are_taken(
    batch: int, least: int, most: int, workers: int
) -> None:
    assert most_workers(batch, least, most) == workers


def test_this_machine_has_cpus() -> None:
    assert local_resources()["CPU"] >= 1


LOOKS = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"


def test_ray_looks_more_seldom_at_many_workers() -> None:
    assert look_seconds(1) == look_seconds(200) == 0.2
    assert look_seconds(1_024) == 1.024
    assert look_seconds(4_096) == 2.0  # as seldom as Ray would by itself, and no more


@pytest.mark.parametrize(("workers", "seconds"), [(2, "0.2"), ((2, 1_000), "1"), (4_096, "2")])
def test_the_controller_is_told_how_often_to_look_unless_the_user_says_it(
    workers: Any, seconds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOOKS, "7")
    Trainer(print, batch=8, board=None, scaling_config=scaling(workers, 1, gpu=False))
    assert os.environ[LOOKS] == "7"
    monkeypatch.delenv(LOOKS)
    Trainer(print, batch=8, board=None, scaling_config=scaling(workers, 1, gpu=False))
    assert os.environ.pop(LOOKS) == seconds
