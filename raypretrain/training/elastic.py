"""What Ray Train decides differently for us: only numbers that divide the batch, and regrouping is no failure."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)
from ray.train.v2.api.config import FailureConfig, ScalingConfig
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError
from ray.train.v2.torch.torch_trainer import TorchTrainer

from raypretrain.training.cluster import LEAST_STREAM_CPUS, look_seconds, most_workers
from raypretrain.training.requests import Regroup

_LOOK_SECONDS = 5.0
_ANSWER_SECONDS = 5.0
_WAIT_SECONDS = 0.5


class RegroupingPolicy(DefaultFailurePolicy):
    """Workers that left in order, after a checkpoint, do not count as failures; and whoever waits for nodes says so.

    Args:
        failure_config: with the recipe's number of restarts.
        board: of the run.
    """

    def __init__(self, failure_config: FailureConfig, board: Any) -> None:
        super().__init__(failure_config)
        self._board = board

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        if isinstance(training_failed_error, WorkerGroupError) and any(
            isinstance(error, Regroup) for error in training_failed_error.worker_failures.values()
        ):
            return FailureDecision.RETRY
        if isinstance(training_failed_error, ControllerError):
            reason = training_failed_error.controller_failure
            if isinstance(
                reason, ray.exceptions.RayActorError
            ):  # a worker lost in mid-start is a worker lost
                return super().make_decision(WorkerGroupError(str(reason), {0: reason}))
            if isinstance(reason, WorkerGroupStartupTimeoutError):
                self._board.note.remote("note: waiting for room on the cluster for all workers")
        return super().make_decision(training_failed_error)


class DivisorPolicy(ElasticScalingPolicy):
    """Ray's elastic policy, with worker numbers that divide the batch, and a checkpoint before the group grows.

    Args:
        scaling_config: with the least and the most workers.
        batch: sequences of a step.
        board: of the run; the workers look there for what is asked of them.
    """

    def __init__(self, scaling_config: ScalingConfig, batch: int, board: Any) -> None:
        super().__init__(scaling_config)
        self._batch, self._board = batch, board
        self._waiting = False

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        self._board.ask_to_regroup.remote(None)
        decision = super().make_decision_for_non_running_worker_group()
        waiting = isinstance(decision, NoopDecision)
        if waiting and not self._waiting:
            least = self.scaling_config.min_workers
            self._board.note.remote(f"note: waiting for room for {least} workers, the least")
        self._waiting = waiting
        if waiting:
            time.sleep(_WAIT_SECONDS)  # Ray would ask again at once, all the time
        return decision

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """Asks a group that works to save and leave, where there is room for more; a new one follows.

        One that was started on a node that turned out to be dead may have left the stream no CPU: that is ended.
        """
        running = worker_group_state.num_workers
        decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        if not isinstance(decision, ResizeDecision):
            return NoopDecision()
        if decision.num_workers > running:
            self._board.ask_to_regroup.remote(running)
        return NoopDecision() if self._leave_room_for_the_stream(running, _alive()) == running else decision

    def _get_reserved_resources(self) -> Any:
        """As Ray's, but of the nodes that live now and stay: its own view may be 20 s old.

        Where it is given nodes that are leaving, by who does not know that they are, those that stay count whole.
        """
        try:
            coordinator = self._autoscaling_coordinator
            reserved = coordinator.get_reserved_resources.remote(self._requester_id, recompute=True)
            found = ray.get(reserved, timeout=_ANSWER_SECONDS)
        except ray.exceptions.RayError:
            return None
        if found.keys().isdisjoint(_leaving()):
            return found
        return {node["NodeID"]: node["Resources"] for node in _staying()}

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        """Zero, which means to wait, where fewer fit than the recipe's least."""
        possible = super()._count_possible_workers(reserved_resources)
        possible = self._leave_room_for_the_stream(possible, _staying())
        return most_workers(self._batch, self.scaling_config.min_workers, possible)

    def _leave_room_for_the_stream(self, workers: int, nodes: Sequence[dict[str, Any]]) -> int:
        """As many of them as leave it a CPU to run on, of the nodes."""
        each = self.scaling_config._resources_per_worker_not_none.get("CPU", 0)
        cpus = sum(node["Resources"].get("CPU", 0) for node in nodes)
        return max(n for n in range(workers + 1) if n * each + LEAST_STREAM_CPUS <= cpus + 1e-9 or n == 0)


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _leaving() -> dict[str, int]:
    """Ids of the nodes that will go, and when."""
    found: dict[str, int] = ray._private.state.state.get_draining_nodes()
    return found


def _staying() -> list[dict[str, Any]]:
    leaving = _leaving()
    return [node for node in _alive() if node["NodeID"] not in leaving]


class Trainer(TorchTrainer):
    """Ray's, with these two policies.

    Args:
        batch: sequences of a step.
        board: of the run.
        kwargs: of Ray's trainer.
    """

    def __init__(self, *args: Any, batch: int, board: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._batch, self._board = batch, board
        sizes: Any = self.scaling_config
        # The controller, which starts later, reads it.
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", f"{look_seconds(sizes.max_workers):g}")

    def _create_default_callbacks(self) -> list[Any]:
        """Without the actor for the datasets of Ray Train: it has none of ours, and every group would start one."""
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, DatasetsCallback)]

    def _initialize_and_run_controller(self, **kwargs: Any) -> Any:
        failures: Any = self.run_config.failure_config  # typed as those of Train V1
        sizes: Any = self.scaling_config
        kwargs["failure_policy"] = RegroupingPolicy(failures, self._board)
        if sizes.elasticity_enabled:
            kwargs["scaling_policy"] = DivisorPolicy(sizes, self._batch, self._board)
        return super()._initialize_and_run_controller(**kwargs)


def scaling(workers: int | tuple[int, int], cpus: float, gpu: bool) -> ScalingConfig:
    """A fixed number of workers, or the least and the most."""
    return ScalingConfig(
        num_workers=workers,
        use_gpu=gpu,
        resources_per_worker={"CPU": cpus, **({"GPU": 1} if gpu else {})},
        elastic_resize_monitor_interval_s=_LOOK_SECONDS,
    )
