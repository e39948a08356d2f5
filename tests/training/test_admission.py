"""How a run is sized for what a cluster can become, what is refused, and what is said while it waits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ray.autoscaler.v2.schema import ClusterStatus, LaunchRequest, NodeInfo

from raypretrain.errors import ClusterError
from raypretrain.training.admission import bundles, coming, first_of, size_up_grown
from raypretrain.training.cluster import size_up
from raypretrain.training.growth import Growth, growth_of, growth_of_kubernetes
from raypretrain.training.nodes import Node, NodeType, in_words, most_left, places, possible
from raypretrain.training.recipe import PretrainRecipe

HEAD = Node(gpus=0, cpus=1)


def recipe(batch: int = 12, **compute: Any) -> PretrainRecipe:
    return PretrainRecipe.model_validate(
        {
            "corpus": {"sources": [{"path": "x"}]},
            "training": {"global_batch": batch},
            "compute": compute,
        }
    )


def of(*types: NodeType, most: int = 100) -> Growth:
    return Growth(types, most)


CPUS = NodeType("cpu-worker", Node(gpus=0, cpus=2), 4)
GPUS = NodeType("gpu-worker", Node(gpus=8, cpus=16), 2)


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpu", "spare", "fit"),
    [
        ([Node(0, 4)], 1, False, 0, 4),
        ([Node(0, 4)], 1, False, 0.5, 3),
        ([Node(0, 1)] * 3, 2, False, 0, 0),
        ([Node(0, 1), Node(0, 3)], 1, False, 0.5, 3),
        ([Node(0, 2), Node(8, 16)], 1, True, 0.5, 8),  # the stream is on the node without a GPU
        ([Node(8, 8)], 1, True, 0.5, 7),
        ([Node(0, 0.25)] * 4, 0.25, False, 0.5, 0),  # no node has room for the stream
    ],
)
def test_how_many_workers_fit_on_nodes(
    nodes: list[Node], cpus: float, gpu: bool, spare: float, fit: int
) -> None:
    assert places(nodes, cpus, gpu, spare) == fit


@pytest.mark.parametrize(
    ("nodes", "workers", "left"),
    [
        ([Node(0, 1), Node(0, 1), Node(0, 1)], 2, 1),
        ([Node(0, 1.5), Node(0, 1.5)], 2, 0.5),
        ([Node(0, 3)], 2, 1),
        ([Node(0, 1)], 2, 0),
    ],
)
def test_what_a_node_keeps_free_beside_workers_of_one_cpu(
    nodes: list[Node], workers: int, left: float
) -> None:
    assert most_left(nodes, workers, 1, gpu=False) == left


def test_a_cluster_at_its_largest_has_the_best_nodes_of_all_that_its_limit_allows() -> None:
    assert possible(HEAD, [CPUS, GPUS], 6) == [HEAD, *[GPUS.node] * 2, *[CPUS.node] * 4]
    assert possible(HEAD, [CPUS, GPUS], 3) == [HEAD, GPUS.node, GPUS.node, CPUS.node]
    assert possible(HEAD, [], 6) == [HEAD]


def test_nodes_in_words() -> None:
    assert in_words([Node(0, 1), Node(1, 8), Node(0, 1)]) == "2 nodes of 1 CPU, 1 node of 8 CPUs and 1 GPU"


def test_a_run_is_sized_for_nodes_that_are_not_there_yet() -> None:
    found = size_up_grown(recipe(workers=4), HEAD, of(CPUS))
    assert (found.workers, found.device) == (4, "cpu")
    assert found.cpus_per_worker <= 2  # a worker has to fit on one node
    everything = size_up_grown(recipe(batch=16), HEAD, of(CPUS, GPUS))
    assert (everything.workers, everything.device, everything.precision) == (16, "cuda", "bf16")


def test_gpus_that_no_type_has_are_refused_with_what_there_is() -> None:
    with pytest.raises(ClusterError) as caught:
        size_up_grown(recipe(device="cuda", workers=2), HEAD, of(CPUS))
    said = str(caught.value)
    assert said.startswith("compute.workers: 2 workers need as many GPUs, the cluster has 0 at its largest")
    assert "beside the head (1 CPU) it can have cpu-worker (2 CPUs, up to 4)" in said
    assert said.endswith("compute.device: cpu")


def test_more_than_all_nodes_can_hold_is_refused() -> None:
    with pytest.raises(
        ClusterError, match=r"20 workers need as many GPUs, the cluster has 16 at its largest"
    ):
        size_up_grown(recipe(batch=20, workers=20), HEAD, of(CPUS, GPUS))
    with pytest.raises(ClusterError, match=r"1 worker of 3 CPUs .* do not fit on .*4 nodes of 2 CPUs"):
        size_up_grown(recipe(cpus_per_worker=3), HEAD, of(CPUS))


def test_of_a_least_and_a_most_the_least_begins_and_the_most_is_what_can_come() -> None:
    wide = recipe(workers=(1, 12), cpus_per_worker=2)
    found = size_up_grown(wide, HEAD, of(CPUS))
    assert found.elastic == (1, 4)  # the autoscaler would bring nothing for a request of 12
    assert first_of(found, wide).workers == 1
    odd = recipe(workers=(2, 12), cpus_per_worker=1, batch=9)
    assert first_of(size_up_grown(odd, HEAD, of(CPUS)), odd).workers == 3  # 2 does not divide 9


def test_room_is_asked_for_for_each_worker_and_a_task_of_the_stream() -> None:
    found = size_up_grown(recipe(workers=2, cpus_per_worker=1, stream_cpus=0.5), HEAD, of(CPUS))
    assert bundles(found) == [{"CPU": 1}, {"CPU": 1}, {"CPU": 0.5}]
    on_gpu = size_up_grown(recipe(workers=2, cpus_per_worker=4), HEAD, of(GPUS))
    assert bundles(on_gpu) == [{"CPU": 4, "GPU": 1}, {"CPU": 4, "GPU": 1}, {"CPU": 1}]


def test_the_stream_is_given_no_task_that_no_node_has_room_for() -> None:
    sizes = size_up(recipe(workers=2, cpus_per_worker=0.75, stream_cpus=1), {"CPU": 1.25}, {"CPU": 1.25})
    assert sizes.stream_cpus == 0.5
    assert bundles(replace(sizes, workers=1))[-1] == {"CPU": 0.5}


def launch(kind: str, count: int, state: LaunchRequest.Status, **more: Any) -> LaunchRequest:
    return LaunchRequest("", kind, count, state, 0, **more)


def test_what_the_autoscaler_does_is_said() -> None:
    pending, failed = LaunchRequest.Status.PENDING, LaunchRequest.Status.FAILED
    assert coming(ClusterStatus()) == ""
    starting = ClusterStatus(
        pending_launches=[launch("gpu", 2, pending), launch("gpu", 1, pending)],
        pending_nodes=[NodeInfo("", "cpu", "", "")],
        failed_launches=[launch("gpu", 1, failed, failed_ts_s=3, details="no capacity")],
    )
    assert coming(starting) == "; 1 node of cpu is starting; 3 nodes of gpu are starting"
    refused = ClusterStatus(
        failed_launches=[
            launch("gpu", 1, failed, failed_ts_s=5, details="quota\nexceeded"),
            launch("cpu", 1, failed, failed_ts_s=4, details="older"),
        ]
    )
    assert coming(refused) == "; a node of gpu could not be started: quota exceeded"


CONFIG = {
    "max_workers": 3,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 1}},
        "cpu": {"resources": {"CPU": 2}, "max_workers": 2},
        "gpu": {"resources": {"CPU": 8, "GPU": 1}},
    },
}


def test_what_a_configuration_allows_is_read_with_its_defaults() -> None:
    found = growth_of(CONFIG)
    assert found.types == (NodeType("cpu", Node(0, 2), 2), NodeType("gpu", Node(1, 8), 3))
    assert found.most == 3
    assert str(found) == "cpu (2 CPUs, up to 2), gpu (8 CPUs and 1 GPU, up to 3)"


def group(name: str, most: int, **limits: Any) -> dict[str, Any]:
    container = {"name": "ray", "resources": {"limits": limits, "requests": limits}}
    return {
        "groupName": name,
        "replicas": 0,
        "minReplicas": 0,
        "maxReplicas": most,
        "rayStartParams": {},
        "template": {"spec": {"containers": [container]}},
    }


def test_what_a_raycluster_of_kubernetes_allows_is_read() -> None:
    head = {
        "rayStartParams": {"num-cpus": "0"},
        "template": group("head", 0, cpu="2", memory="4Gi")["template"],
    }
    cluster = {
        "metadata": {"name": "small", "namespace": "default"},
        "spec": {
            "enableInTreeAutoscaling": True,
            "headGroupSpec": head,
            "workerGroupSpecs": [
                group("cpu", 4, cpu="3", memory="8Gi"),
                group("gpu", 2, **{"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": 4}),
            ],
        },
    }
    found = growth_of_kubernetes(cluster)
    assert found is not None
    assert set(found.types) == {NodeType("cpu", Node(0, 3), 4), NodeType("gpu", Node(4, 8), 2)}
    cluster["spec"]["enableInTreeAutoscaling"] = False
    assert growth_of_kubernetes(cluster) is None
