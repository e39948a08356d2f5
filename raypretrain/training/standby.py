"""Processes that stand by on each node, with all imported, for the group of workers that follows a lost one.

Ray gives a new actor a process that waits, if one was started for the same runtime environment and has done nothing
yet; else it starts one, which takes seconds to import PyTorch. So a while after the start each node is asked for as
many as it has workers, and the controller's node for those of the actors that Ray Train has beside a group.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import threading
from collections.abc import Callable
from typing import Any

import ray
from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from raypretrain.training.interfaces import talk_over

_LATER_SECONDS = 10.0
"""A start has better things to do, and a short run does not need them."""

_ANSWER_SECONDS = 10.0
_KEPT_SECONDS = 10 * 365 * 24 * 3600  # until it is used, or the driver ends
_ACTORS_BESIDE_A_GROUP = 2  # its SynchronizationActor and its PreemptionWatcher


def environment() -> dict[str, str]:
    """Of the workers: has their processes make ready as they start, before they are given an actor."""
    return {WORKER_PROCESS_SETUP_HOOK_ENV_VAR: f"{__name__}.{prepare.__name__}"}


def prepare() -> None:
    """What a process does that is to become a worker.

    Nothing here may look at the GPUs: which of them are its own it is told with its actor.
    """
    talk_over(ray.util.get_node_ip_address())
    names = ["raypretrain.training.worker", "ray.train.torch"]
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        names.append("deepspeed")  # it looks for the GPUs otherwise
    gc.disable()  # it would go through all that is imported, again and again, a fifth of the time
    for name in names:
        # What is wrong with one the worker will say, whose error is seen.
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    gc.freeze()  # what was imported stays: a worker's collections need not go through it either
    gc.enable()


class Standby:
    """Has processes started, once, for actors like the one that calls it, on its node.

    Args:
        count: of processes; there may be none.
        note: tells the user a line.
    """

    def __init__(self, count: int, note: Callable[[str], Any]) -> None:
        self._count, self._note = count, note
        self._timer = threading.Timer(_LATER_SECONDS, self._ask)
        self._timer.daemon = True

    def start(self) -> None:
        """In a while."""
        if self._count:
            self._timer.start()

    def cancel(self) -> None:
        """Not any more, if it is not too late."""
        self._timer.cancel()

    def _ask(self) -> None:
        try:
            _ask_raylet(self._count)
        except Exception as error:  # gRPC's, Ray's: whatever it is, the run goes on without
            reason = str(error).split("\n")[0]
            self._note(f"no processes stand by, so that a restart will take some seconds more ({reason})")


class HelpersStandBy(WorkerGroupCallback):
    """Runs in Ray Train's controller: the actors beside the next group find their processes there.

    Args:
        board: the actor's handle.
    """

    def __init__(self, board: Any) -> None:
        self._board = board
        self._standby: Standby | None = None

    def after_worker_group_training_start(self, worker_group: Any) -> None:
        """Called for every group."""
        self._standby = Standby(_ACTORS_BESIDE_A_GROUP, self._board.note.remote)
        self._standby.start()

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        """Called for every group that has started."""
        if self._standby:
            self._standby.cancel()


def _ask_raylet(count: int) -> None:
    """Have this node's raylet start ``count`` processes like this one."""
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import (
        common_pb2,
        node_manager_pb2,
        node_manager_pb2_grpc,
        runtime_environment_pb2,
    )

    messages: Any = node_manager_pb2  # made by protobuf at run time, so that mypy knows nothing of them
    languages: Any = common_pb2
    environments: Any = runtime_environment_pb2
    context = ray.get_runtime_context()
    [node] = [node for node in ray.nodes() if node["NodeID"] == context.get_node_id()]
    asked = messages.PrestartWorkersRequest(
        language=languages.PYTHON,
        job_id=bytes.fromhex(context.get_job_id()),
        runtime_env_info=environments.RuntimeEnvInfo(serialized_runtime_env=context.get_runtime_env_string()),
        keep_alive_duration_secs=_KEPT_SECONDS,
        num_workers=count,
    )
    with init_grpc_channel(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}") as channel:
        stub: Any = node_manager_pb2_grpc.NodeManagerServiceStub(channel)
        stub.PrestartWorkers(asked, timeout=_ANSWER_SECONDS)
