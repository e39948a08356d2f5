"""What one worker of a run does: take up the newest checkpoint and the stream at its cursor, and train."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train.collective import broadcast_from_rank_zero
from torch import Tensor

from raypretrain.errors import RaypretrainError, user_error
from raypretrain.models.cpu import use_cpus
from raypretrain.planning.failures import mean_time_between_failures
from raypretrain.tokens.cursor import Cursor
from raypretrain.tokens.dealer import DealtSteps, StepRows, Turn, steps_of_a_deal, wake_dealer
from raypretrain.training.background import Means
from raypretrain.training.board import Poster
from raypretrain.training.cadence import Cadence
from raypretrain.training.checkpoint import Standing
from raypretrain.training.crew import Crew
from raypretrain.training.engine import Engine
from raypretrain.training.events import Events
from raypretrain.training.fast import FastTier
from raypretrain.training.guard import Guard, Verdict, corrupted, stopped
from raypretrain.training.heartbeat import Heartbeat, Progress, born
from raypretrain.training.job import Job
from raypretrain.training.logs import JsonLines, logged
from raypretrain.training.loop import train
from raypretrain.training.metrics import read_log
from raypretrain.training.microbatch import Place
from raypretrain.training.preemption import Preemption
from raypretrain.training.records import Records, asked_at, log_takeup, record_group
from raypretrain.training.requests import Regroup, Request, agree
from raypretrain.training.runfolder import RunFolder
from raypretrain.training.saving import Saver
from raypretrain.training.standby import Standby
from raypretrain.training.takeup import TakeUp

logger = logging.getLogger(__name__)

_DEALER_SECONDS = 5.0
"""A dealer of lost workers that does not answer for so long is started again."""


def train_worker(config: dict[str, Job]) -> None:
    """The training function of Ray Train."""
    job = config["job"]
    if ray.get(job.board.error.remote()):
        return  # a restart would run into the same error of the user's
    with logged(Path(job.folder), ray.train.get_context().get_world_rank()) as log:
        try:
            _carry_out(job, log)
        except Regroup as error:
            logger.info("leaves %s: another group follows", error)
            raise
        except BaseException:
            logger.exception("this worker ends")
            raise


def _carry_out(job: Job, log: JsonLines) -> None:
    try:
        worker = Worker(job)
        log.step = lambda: worker.step
        with worker.heartbeat():
            worker.run()
    except (RaypretrainError, ray.exceptions.RayTaskError) as error:
        wrong_input = user_error(error)
        if wrong_input:
            ray.get(job.board.fail.remote(str(wrong_input)))
        raise


class Worker:
    """One worker's hands: the hooks of the loop, and what they need.

    Args:
        job: of the run.
        poster: to the driver; by default by the run's board.
    """

    def __init__(self, job: Job, poster: Any = None) -> None:
        self.begun = time.time()
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.job = job = job.for_world(self.world)
        self.poster = poster or Poster(job.board, self.world)
        self.folder = RunFolder(job.folder)
        self.events = Events(self.folder.events)
        self.preemption = Preemption(job.checkpoint_bytes)
        self.progress = Progress()
        self.standing = job.start
        self.incarnation = 0
        self.phase = self.progress.mark
        on_gpu = job.sizes.device == "cuda"
        self.device = ray.train.torch.get_device() if on_gpu else torch.device("cpu")
        self.crew = Crew(self.rank, self.world, self.gather, self.poster.note)
        fast = job.recipe.training.checkpoint.fast
        self.fast = FastTier(fast.folder, self.folder.path, self.rank) if fast.every else None
        first = context.get_local_rank() == 0 and job.recipe.compute.standby
        self.standby = Standby(context.get_local_world_size() if first else 0, self.poster.note)
        self.held_out_loss = (-1, math.nan)  # a step, and what was measured there
        if not on_gpu:
            use_cpus(job.sizes.threads)

    @property
    def step(self) -> int:
        """The step under way; before the first, the one that the run goes on from."""
        return self.progress.now[1] or self.standing.step

    def heartbeat(self) -> Heartbeat:
        """The thread that tells the board how far this worker is."""
        number = 0 if self.rank else ray.get(self.job.board.enter.remote())
        self.incarnation = int(self.gather(torch.tensor([number]))[0, 0])
        pid, context = os.getpid(), ray.get_runtime_context()
        who = {
            "rank": self.rank,
            "world": self.world,
            "incarnation": self.incarnation,
            "node": ray.util.get_node_ip_address(),
            "node_id": context.get_node_id(),
            "pid": pid,
            "born": born(pid),
        }
        place = f"on node {who['node']}, pid {pid}"
        logger.info("worker %d of %d %s, group %d", self.rank, self.world, place, self.incarnation)
        return Heartbeat(self.progress, self.poster.beat, who, self.job.recipe.compute.stall_timeout)

    def run(self) -> None:
        job, length = self.job, self.job.length
        times = [time.time()]
        self.phase("verify")
        self.taken = taken = TakeUp(job, self.crew, self.fast, self.poster.note)
        self.standing = taken.standing
        log_takeup(job, self.incarnation, self.standing.step, taken.found is not None)
        # The first windows are read and tokenized while the model is built.
        steps = self._stream(self.standing, length.steps - self.standing.step)
        times.append(time.time())
        self._phase("building the model")
        self.phase("engine")
        new = taken.found is None
        self.engine = Engine(job.model(new), job.engine_settings(new, taken.universal), self.device)
        self.engine.watch(self.phase, self.progress.collective)
        if self.job.compiled and self.rank == 0:
            self.poster.note("the layers are compiled in the first step", logging.INFO)
        times.append(time.time())
        self.phase("restore")
        if taken.found:
            self._phase(f"restoring step {self.standing.step:,}")
        taken.load(self.engine)
        times.append(time.time())
        self._phase("waiting for the first batch")
        self.phase("first batch")
        spans = [after - before for before, after in pairwise(times)]
        names = ("verify", "engine", "restore")
        self.starting = {
            "workers": max(0.0, self.begun - asked_at(job)),
            **dict(zip(names, spans, strict=True)),
        }
        if self.rank == 0:
            after = self.standing.step
            record_group(job, self.events, self.incarnation, self.world, after, self.starting)
            self.records = Records(job, self.poster, after, self.starting)
        self._open_saver()
        self.guard = self._guard()
        self.standby.start()
        together = job.recipe.compute.sequence_workers
        place = Place(
            self.rank,
            self.world,
            job.sizes.micro_batch,
            self.device,
            job.supply.objective,
            job.recipe.sequences.boundaries,
            job.recipe.training.global_batch * together // job.sizes.micro_batch,
            together,
        )
        begin, training = self.standing.step, job.recipe.training
        step = train(self.engine, steps, begin, length, training, job.held_out, self.guard, place, self)
        self.standby.cancel()
        self._phase(f"saving step {step:,}")
        self.saver.finish()
        if step == length.steps:
            self.saver.end()

    # The hooks of the loop.

    def gather(self, values: Tensor) -> Tensor:
        own = values.to(self.device).flatten()
        everyone = own.new_empty(self.world * len(own))
        self.progress.collective(dist.all_gather_single)(everyone, own)
        return everyone.view(self.world, *values.shape).cpu()

    def log_step(self, row: dict[str, Any], data: StepRows) -> None:
        self.preemption.step_seconds = row["step_seconds"]
        if self.rank == 0:
            self.records.step(row, data, self.guard.skipped)

    def log_sequences(self, step: int, losses: list[float]) -> None:
        if self.rank == 0:
            self.records.losses(step, losses)

    def log_evaluation(self, row: dict[str, Any]) -> None:
        self.held_out_loss = (row["step"], row["held_out_loss"])
        if self.rank == 0:
            self.records.evaluation(row)

    def save_due(self, step: int) -> bool:
        return self.saver.due(step)

    def save(self, step: int, tokens: int, cursor: Cursor, updates: int, now: bool) -> None:
        self._phase(f"saving step {step:,}")
        begun = time.perf_counter()
        standing = replace(self.job.start, step=step, tokens=tokens, cursor=cursor, updates=updates)
        measured, loss = self.held_out_loss
        self.saver.save(standing, loss if measured == step else None, now=now)
        if now:
            self.saver.finish()
            self.preemption.saved(time.perf_counter() - begun)
        self._phase("training")

    def rewind(self, step: int, reason: str) -> Standing | None:
        self._phase("going back")
        self.phase("restore")
        self.saver.settle()
        back = self.taken.back(self.engine)
        if back and self.rank == 0:
            self.events.append("rewind", step=step, reason=reason, to=back.step)
            self.poster.note(f"step {step:,}: {reason}; going back to the weights of step {back.step:,}")
        return back

    def refused(self, step: int, verdict: Verdict) -> None:
        if self.rank == 0 and verdict.action != "rewind":
            self.events.append(verdict.action, step=step, reason=verdict.reason)
            if verdict.action == "skip":
                self.poster.note(f"step {step:,} is skipped: {verdict.reason}")
        if verdict.action == "stop":
            history = f" ({verdict.history})" if verdict.history else ""
            raise stopped(self.job.folder, step, verdict.reason + history)

    def replicas_differ(self, step: int, ranks: list[int]) -> None:
        nodes: list[Any] = [None] * self.world
        dist.all_gather_object(nodes, ray.util.get_node_ip_address())
        if self.rank == 0:
            self.events.append("replicas-differ", step=step, ranks=ranks, nodes=[nodes[r] for r in ranks])
        raise corrupted(self.job.folder, step, ranks, nodes)

    def request(self) -> Request:
        # One worker looks at the board for all: in the exchange of a step they agree.
        asked = self.poster.asked() if self.rank == 0 else Request.NOTHING
        return agree([asked, self.preemption.request()])

    def agreed(self, request: Request) -> None:
        if self.rank == 0:
            self.preemption.tell(request, self.poster.note, self.events)

    # What happens before the first step.

    def _guard(self) -> Guard:
        """As it was after the step that the run goes on from; rank 0 reads the metrics."""
        guard = None
        if self.rank == 0:
            rows = read_log(self.folder.metrics)
            guard = Guard.after(self.job.recipe.training.guard, rows, self.standing.updates)
        made: Guard = broadcast_from_rank_zero(guard)
        return made

    def _open_saver(self) -> None:
        config = self.job.recipe.training.checkpoint
        failures = config.mean_time_between_failures or mean_time_between_failures(self.world)
        cadence = Cadence(self.job.length.checkpoint_every, self.standing.step, failures)
        self.saver = Saver(Means(self.crew, self.folder, config, self.fast), cadence, self.engine.snapshot)

    def _stream(self, standing: Standing, steps: int) -> Iterable[StepRows]:
        """This worker's steps after ``standing``."""
        job = self.job
        turn = Turn(
            self.incarnation,
            standing.cursor,
            self.world,
            job.supply,
            standing.step,
            job.recipe.compute.sequence_workers,
        )
        return self.deal(turn, steps)

    def deal(self, turn: Turn, steps: int) -> Iterable[StepRows]:
        """The rows of so many steps, from the run's dealer."""
        job = self.job
        batch, length = job.recipe.training.global_batch, job.recipe.sequences.length
        if self.incarnation > 1:
            if self.rank == 0:
                wake_dealer(job.dealer, turn, _DEALER_SECONDS)
            self.crew.most(0)  # nobody asks before
        return DealtSteps(job.dealer, turn, self.rank, steps, steps_of_a_deal(batch, length, self.world))

    def _phase(self, phase: str) -> None:
        if self.rank == 0:
            self.poster.post("phase", phase, now=True)
