"""What one worker of a run does: take up the newest checkpoint and the stream at its cursor, and train."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train.collective import broadcast_from_rank_zero
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor

from raypretrain.errors import RaypretrainError, RunError, StorageError, user_error
from raypretrain.models.config import ModelShape
from raypretrain.models.transformer import CausalLM
from raypretrain.tokens.cursor import Cursor
from raypretrain.tokens.stream import Dealer, DealtSteps, StepRows, steps_of_a_deal
from raypretrain.training import checkpoint
from raypretrain.training.board import Poster
from raypretrain.training.checkpoint import Standing
from raypretrain.training.cluster import Sizes
from raypretrain.training.engine import Engine, EngineSettings
from raypretrain.training.evaluation import HeldOut
from raypretrain.training.events import Events
from raypretrain.training.guard import Guard, Verdict, corrupted, stopped
from raypretrain.training.loop import Place, train
from raypretrain.training.metrics import Quarantine, StepLog, read_log
from raypretrain.training.recipe import Length, PretrainRecipe
from raypretrain.training.runfolder import RunFolder

_READ_AHEAD_BYTES = 64 * 2**20


@dataclass
class Job:
    """All that a worker is told.

    Args:
        recipe: of the run.
        folder: of the run; every worker must see it.
        sizes, shape, length: what follows from the recipe and the cluster.
        held_out: sequences for evaluation.
        windows: the stream's, in the object store (in a list, so that Ray does not fetch it for every worker).
        bos: the token that begins a document.
        start: where a run without a checkpoint stands; its fingerprints are those that a checkpoint must have.
        pointers: folder in which Ray is told of checkpoints.
        board: to the driver.
        submitted: clock time at which the driver asked for the workers.
    """

    recipe: PretrainRecipe
    folder: str
    sizes: Sizes
    shape: ModelShape
    length: Length
    held_out: HeldOut
    windows: list[Any]
    bos: int
    start: Standing
    pointers: str
    board: Any
    submitted: float


def train_worker(config: dict[str, Job]) -> None:
    """The training function of Ray Train."""
    job = config["job"]
    if ray.get(job.board.error.remote()):
        return  # a restart would run into the same error of the user's
    try:
        Worker(job).run()
    except (RaypretrainError, ray.exceptions.RayTaskError) as error:
        wrong_input = user_error(error)
        if wrong_input:
            ray.get(job.board.fail.remote(str(wrong_input)))
        raise


class Worker:
    """One worker's hands: the hooks of the loop, and what they need."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.begun = time.time()
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.poster = Poster(job.board)
        self.folder = RunFolder(job.folder)
        self.events = Events(self.folder.events)
        self.device = _device(job.sizes)
        if job.sizes.device == "cpu":
            torch.set_num_threads(job.sizes.threads)

    def run(self) -> None:
        job, length = self.job, self.job.length
        times = [time.time()]
        self.standing, found = self._take_up()
        # The first windows are read and tokenized while the model is built.
        steps = self._stream(self.standing.cursor, length.steps - self.standing.step)
        times.append(time.time())
        self._phase("building the model")
        self.engine = Engine(_model(job), _engine_settings(job, self.world), self.device)
        times.append(time.time())
        if found:
            self._phase(f"restoring step {self.standing.step:,}")
            self.engine.load(found)
        times.append(time.time())
        self._phase("waiting for the first batch")
        spans = [after - before for before, after in pairwise(times)]
        names = ("verify", "engine", "restore")
        self.starting = {"workers": self.begun - job.submitted, **dict(zip(names, spans, strict=True))}
        self._open_logs(self.standing.step)
        self.guard = self._guard()
        place = Place(self.rank, self.world, job.sizes.micro_batch, self.device, job.bos)
        begin, training = self.standing.step, job.recipe.training
        train(self.engine, steps, begin, length, training, job.held_out, self.guard, place, self)

    # The hooks of the loop.

    def gather(self, values: Tensor) -> Tensor:
        own = values.to(self.device)
        everyone = [torch.empty_like(own) for _ in range(self.world)]
        dist.all_gather(everyone, own)
        return torch.stack(everyone).cpu()

    def log_step(self, row: dict[str, Any], data: StepRows) -> None:
        if self.rank:
            return
        names = [self.job.recipe.corpus.source_name(i) for i in range(len(data.sources))]
        row = {**row, "sources": dict(zip(names, data.sources, strict=True)), "quarantined": len(data.bad)}
        if data.storage.get("requests"):
            row["storage"] = data.storage
        if data.bad:
            self.quarantine.add(data.bad)
        self.metrics.append(row)
        first = row["step"] == self.standing.step + 1
        if first:
            self.starting["first_batch"] = row["data_wait_seconds"]
            self.starting["first_step"] = row["step_seconds"] - row["data_wait_seconds"]
            self.poster.post("starting", self.starting, now=True)
            self._phase("training")
        last = row["step"] == self.job.length.steps
        self.poster.post("step", {**row, "skipped_steps": self.guard.skipped}, now=first or last)

    def log_sequences(self, step: int, losses: list[float]) -> None:
        if self.rank == 0:
            self.sequences.append({"step": step, "losses": losses})

    def log_evaluation(self, row: dict[str, Any]) -> None:
        if self.rank == 0:
            self.evaluations.append(row)
            self.poster.post("evaluation", row, now=True)

    def save(self, step: int, tokens: int, cursor: Cursor, updates: int) -> None:
        folder = checkpoint.checkpoint_folder(self.folder.checkpoints, step)
        self._phase(f"saving step {step:,}")
        try:
            if self.rank == 0:
                checkpoint.clear(folder)
            dist.barrier()
            self.engine.save(folder)
            dist.barrier()
            parts: list[Any] = [None] * self.world
            dist.all_gather_object(parts, checkpoint.hash_files(folder, self.rank, self.world))
            if self.rank == 0:
                files = {name: value for part in parts for name, value in part.items()}
                standing = replace(self.job.start, step=step, tokens=tokens, cursor=cursor, updates=updates)
                checkpoint.commit(folder, standing, files)
                checkpoint.prune(self.folder.checkpoints, self.job.recipe.training.checkpoint.keep)
            self._tell_ray(step, folder)
        except (OSError, RuntimeError) as error:
            reason = _write_error(error)
            if reason is None:
                raise
            raise StorageError(
                f"the checkpoint cannot be written ({reason})",
                where=str(folder),
                fix="make room there and start again: the run goes on from the last whole checkpoint",
            ) from None
        self._phase("training")

    def rewind(self, step: int, reason: str) -> Standing | None:
        found = self._newest()
        if found is None:
            return None
        back = checkpoint.read_standing(found)
        self._phase(f"going back to step {back.step:,}")
        self.engine.load(found)
        if self.rank == 0:
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

    def stop_asked(self) -> bool:
        return self.poster.stop_asked()

    # What happens before the first step.

    def _take_up(self) -> tuple[Standing, Path | None]:
        """Where to start: rank 0 verifies the checkpoints, all go on from the same one."""
        found = self._newest()
        if self.rank == 0:
            step = checkpoint.read_standing(found).step if found else 0
            checkpoint.drop_after(self.folder.checkpoints, step)
        if found is None:
            return self.job.start, None
        standing = checkpoint.read_standing(found)
        _refuse_other(standing, self.job.start, str(found))
        return standing, found

    def _newest(self) -> Path | None:
        """The newest checkpoint that verifies, the same for all."""
        found = None
        if self.rank == 0:
            found = checkpoint.newest_verified(self.folder.checkpoints, self.poster.note)
        newest: Path | None = broadcast_from_rank_zero(found)
        return newest

    def _guard(self) -> Guard:
        """As it was after the step that the run goes on from; rank 0 reads the metrics."""
        guard = None
        if self.rank == 0:
            rows = read_log(self.folder.metrics)
            guard = Guard.after(self.job.recipe.training.guard, rows, self.standing.updates)
        made: Guard = broadcast_from_rank_zero(guard)
        return made

    def _stream(self, cursor: Cursor, steps: int) -> DealtSteps:
        """This worker's steps from ``cursor`` on; rank 0 starts the dealer, beside itself."""
        job = self.job
        dealer = None
        if self.rank == 0:
            limits = {
                "cpus": job.sizes.stream_cpus,
                "task_cpus": min(1.0, job.sizes.stream_cpus),
                "ahead_bytes": max(_READ_AHEAD_BYTES, 8 * job.recipe.sequences.window),
            }
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
            actor = ray.remote(Dealer).options(num_cpus=0, scheduling_strategy=here)
            batch = job.recipe.training.global_batch
            dealer = actor.remote(job.windows, cursor, batch, self.world, job.bos, limits)
        dealer = broadcast_from_rank_zero(dealer)
        batch, length = job.recipe.training.global_batch, job.recipe.sequences.length
        deal = steps_of_a_deal(batch, length, self.world)
        return DealtSteps(dealer, self.rank, steps, deal)

    def _open_logs(self, after: int) -> None:
        if self.rank == 0:
            self.metrics = StepLog(self.folder.metrics, after)
            self.evaluations = StepLog(self.folder.evaluations, after)
            if self.job.recipe.training.sequence_losses:
                self.sequences = StepLog(self.folder.sequence_losses, after)
            self.quarantine = Quarantine(self.folder.quarantine)

    def _tell_ray(self, step: int, folder: Path) -> None:
        """Ray's own record of checkpoints gets a pointer; our folder is the truth."""
        pointer = None
        if self.rank == 0:
            place = Path(self.job.pointers) / folder.name
            place.mkdir(parents=True, exist_ok=True)
            (place / "pointer.json").write_text(json.dumps({"checkpoint": str(folder)}), encoding="utf-8")
            pointer = ray.train.Checkpoint.from_directory(str(place))
        mode = ray.train.CheckpointUploadMode.NO_UPLOAD
        ray.train.report({"step": step}, checkpoint=pointer, checkpoint_upload_mode=mode)

    def _phase(self, phase: str) -> None:
        if self.rank == 0:
            self.poster.post("phase", phase, now=True)


def _device(sizes: Sizes) -> torch.device:
    return ray.train.torch.get_device() if sizes.device == "cuda" else torch.device("cpu")


def _model(job: Job) -> CausalLM:
    model = CausalLM(job.shape)
    model.init_weights(job.recipe.run.seed)
    return model


def _engine_settings(job: Job, world: int) -> EngineSettings:
    training, sizes = job.recipe.training, job.sizes
    return EngineSettings(
        zero=job.recipe.compute.zero,
        precision=sizes.precision,
        micro_batch=sizes.micro_batch,
        accumulation=training.global_batch // world // sizes.micro_batch,
        workers=world,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        betas=training.betas,
        epsilon=training.epsilon,
        clip=training.clip,
    )


def _write_error(error: OSError | RuntimeError) -> str | None:
    """Why a file could not be written; None if that was not the error. torch's writer says it in its own words."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    own_words = ("PytorchStreamWriter", "inline_container", "iostream error")
    return "no space left, or the disk is failing" if any(w in str(error) for w in own_words) else None


def _refuse_other(found: Standing, wanted: Standing, where: str) -> None:
    """Refuse a checkpoint of another recipe, tokenizer or corpus, or of another number of workers."""
    for name in ("recipe", "tokenizer", "corpus"):
        if getattr(found, name) != getattr(wanted, name):
            raise RunError(f"was made with another {name}", where=where, fix="choose another run.folder")
    if (found.world_size, found.zero) != (wanted.world_size, wanted.zero):
        raise RunError(
            f"was saved by {found.world_size} workers with ZeRO {found.zero}, "
            f"not {wanted.world_size} with ZeRO {wanted.zero}",
            where=where,
            fix="go on with as many workers and the same compute.zero",
        )
