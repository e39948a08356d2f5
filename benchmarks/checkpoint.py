"""Checkpoints: how long training stands still for one, against DeepSpeed's save, and how long it takes in all.

A model of 100 million parameters (and its embedding) with Adam's state, in fp32 without ZeRO, saved by one worker. The
two take turns in one process: ours copies while the next forward and backward pass go on, and writes, hashes, syncs and
commits in a thread; DeepSpeed writes with ``torch.save``, and neither hashes nor syncs. The stall is what training
waits for: the beginning of the save, and before the next step of the optimizer what is left of the copying. What the
copying and the writing take from a training on the same cores is shown besides. The raw write is of as many bytes from
memory, and is synced.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from report import Row, parser, report, say_load
from torch import Tensor

from raypretrain.models.config import ModelConfig
from raypretrain.models.llama import Llama
from raypretrain.tokens.cursor import Cursor
from raypretrain.training.background import Means
from raypretrain.training.cadence import Cadence
from raypretrain.training.checkpoint import Standing, checkpoint_folder, problem_of, read_manifest
from raypretrain.training.checkpoint_config import CheckpointConfig
from raypretrain.training.crew import Crew
from raypretrain.training.engine import Engine, EngineSettings
from raypretrain.training.microbatch import MicroBatch
from raypretrain.training.runfolder import RunFolder
from raypretrain.training.saving import Saver

LENGTH, VOCABULARY = 64, 16_384
PIECE = 1 << 26


@dataclass
class Times:
    """Seconds of one round."""

    stall: float
    slowed: float  # forward and backward pass beside the copying, less one alone
    committed: float
    deepspeed: float
    raw: float
    hashed: float


def alone() -> None:
    """This process as the only worker."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "LOCAL_RANK": "0"}
    os.environ |= {"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    dist.init_process_group("gloo")


def trained(name: str, zero: int) -> tuple[Engine, int]:
    """An engine after one step, so that Adam's state is there, and the number of parameters."""
    shape = ModelConfig(preset=name).shape(VOCABULARY, LENGTH)
    model = Llama(shape)
    model.init_weights(0)
    settings = EngineSettings(zero, "fp32", 1, 1, 1, 1e-3, 0.1, (0.9, 0.95), 1e-8, 1.0)
    engine = Engine(model, settings, torch.device("cpu"))
    ids = torch.randint(0, VOCABULARY, (1, LENGTH + 1))
    engine.accumulate([MicroBatch(ids[:, :-1], ids[:, 1:])])
    engine.step(1e-3)
    return engine, shape.parameters


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def raw_write(path: Path, size: int) -> None:
    """As many bytes from memory, synced."""
    data = memoryview(bytes(PIECE))
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for start in range(0, size, PIECE):
        os.write(handle, data[: min(PIECE, size - start)])
    os.fsync(handle)
    os.close(handle)


def hashed(size: int) -> None:
    """SHA-256 of as many bytes, on one core."""
    data, digest = memoryview(bytes(PIECE)), hashlib.sha256()
    for start in range(0, size, PIECE):
        digest.update(data[: min(PIECE, size - start)])


def deepspeed_save(engine: Engine, folder: Path) -> None:
    """DeepSpeed's own, as it is without us."""
    from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

    inner = engine._engine
    ours, inner.checkpoint_engine = inner.checkpoint_engine, TorchCheckpointEngine()
    inner.checkpoint_engine.zipfile_serialization = True
    try:
        inner.save_checkpoint(str(folder), tag="engine")
    finally:
        inner.checkpoint_engine = ours


class Bench:
    """A run of one worker below ``place``."""

    def __init__(self, place: Path, engine: Engine) -> None:
        self.place, self.engine = place, engine
        self.run = RunFolder(place / "run")
        self.run.checkpoints.mkdir(parents=True)
        self.step = 0

        def gather(values: Tensor) -> Tensor:
            return values[None]

        crew = Crew(0, 1, gather, print)
        means = Means(crew, self.run, CheckpointConfig(keep=1), None)
        self.saver = Saver(means, Cadence(1, 0, 1e6), engine.snapshot)

    def train(self) -> None:
        """A forward and a backward pass."""
        ids = torch.randint(0, VOCABULARY, (1, LENGTH + 1))
        self.engine.accumulate([MicroBatch(ids[:, :-1], ids[:, 1:])])

    def ours(self) -> tuple[float, float, float, int]:
        """A save of ours: the stall, the passes beside it, the seconds until it is committed, and its bytes."""
        self.step += 1
        standing = Standing(self.step, Cursor(), 0, 1, 0, "r", "t", "c")
        begun = time.perf_counter()
        self.saver.save(standing)
        stall = time.perf_counter() - begun
        beside = timed(self.train)
        stall += timed(self.engine._copied)
        self.engine.step(1e-3)
        self.saver.finish()
        took = time.perf_counter() - begun
        folder = checkpoint_folder(self.run.checkpoints, self.step)
        size = sum(about["bytes"] for about in read_manifest(folder)["files"].values())
        return stall, beside, took, size

    def round(self) -> Times:
        """One of each, from a disk that has nothing left to do."""
        os.sync()
        alone = timed(self.train)
        self.engine.step(1e-3)
        stall, beside, committed, size = self.ours()
        shutil.rmtree(checkpoint_folder(self.run.checkpoints, self.step))
        os.sync()
        theirs = timed(lambda: deepspeed_save(self.engine, self.place / "theirs"))
        shutil.rmtree(self.place / "theirs")
        os.sync()
        raw = timed(lambda: raw_write(self.place / "raw", size))
        (self.place / "raw").unlink()
        return Times(stall, beside - alone, committed, theirs, raw, timed(lambda: hashed(size)))


def main() -> None:
    """Run it."""
    made = parser(__doc__ or "")
    made.add_argument("--zero", type=int, default=0, help="ZeRO stage")
    made.add_argument("--folder", type=Path, help="where to write; by default the folder of temporary files")
    options = made.parse_args()
    name, rounds = ("llama-10m", 3) if options.quick else ("llama-100m", 7)
    alone()
    engine, parameters = trained(name, options.zero)
    say_load()
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        bench = Bench(Path(place), engine)
        first, _, _, size = bench.ours()  # takes its memory
        problem = problem_of(checkpoint_folder(bench.run.checkpoints, bench.step))
        assert problem is None, problem
        times = [bench.round() for _ in range(rounds)]
    middle = {key: statistics.median(vars(t)[key] for t in times) for key in vars(times[0])}
    print(
        f"{parameters:,} parameters, {size / 1e9:.2f} GB, ZeRO {options.zero}; first stall {first:.3f} s, then"
        f" {min(t.stall for t in times):.3f} to {max(t.stall for t in times):.3f} s; sha256"
        f" {size / middle['hashed'] / 1e9:.2f} GB/s a core; until committed {middle['committed']:.2f} s; a forward"
        f" and backward pass beside it takes {middle['slowed']:.3f} s longer"
    )
    rows = [
        Row("training's stall ÷ DeepSpeed's save", middle["stall"], middle["deepspeed"], 10, less=True),
        Row("until committed ÷ a raw write", middle["committed"], middle["raw"], None, less=True),
        Row("hashing on one core ÷ a raw write", middle["hashed"], middle["raw"], 1, less=True),
    ]
    report(f"a checkpoint of {name}", "seconds", rows, options.json)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
