"""One run that loses a worker, in a process of its own: ours, or stock Ray Train's. Prints when what happened, as JSON.

    python recovery_runs.py ours|peer PRESET RANK

Both train the same network with two workers of one thread each, save every ``EVERY`` steps, and lose worker RANK by
SIGKILL after step ``KILL_AFTER``. Every worker notes the clock at each step in a file, and, by a sitecustomize.py on
the path of all processes, when it began to import our package.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

BATCH, LENGTH, VOCABULARY, WORKERS = 4, 128, 4096, 2
EVERY, KILL_AFTER, STEPS = 10, 32, 40

SITE = """
import sys, time
class Look:
    seen = {}
    def find_spec(name, path=None, target=None):
        Look.seen.setdefault(name, time.time())
        return None
sys.meta_path.insert(0, Look)
sys.first_imports = Look.seen
"""


class Notes:
    """What a worker writes down: its rank, and the clock at each step."""

    def __init__(self, folder: str, rank: int) -> None:
        self._begun = time.time()
        self._path = Path(folder) / f"{rank}-{os.getpid()}.jsonl"
        self.note(rank=rank, pid=os.getpid(), imports=self._imports())

    def note(self, **values: Any) -> None:
        """A line, with the clock."""
        with self._path.open("a") as file:
            file.write(json.dumps({"time": time.time(), **values}) + "\n")

    def _imports(self) -> float:
        """When this process began to import ours; the worker's function begins once all is imported.

        Ray may have taken a process that had been a task of the stream: that has imported us, but not the training.
        """
        seen: dict[str, float] = getattr(sys, "first_imports", {})
        return seen.get("raypretrain.training", seen.get("raypretrain", self._begun))


class Kills(threading.Thread):
    """Kills the worker of a rank after a step, and notes when the other one was gone."""

    def __init__(self, folder: Path, rank: int) -> None:
        super().__init__(daemon=True)
        self._folder, self._rank = folder, rank
        self.killed = self.others_gone = 0.0

    def run(self) -> None:
        while not (found := self._after(KILL_AFTER)):
            time.sleep(0.005)
        others = [psutil.Process(pid) for rank, pid in found.items() if rank != self._rank]
        os.kill(found[self._rank], signal.SIGKILL)
        self.killed = time.time()
        psutil.wait_procs(others)
        self.others_gone = time.time()

    def _after(self, step: int) -> dict[int, int]:
        """Rank → process, once all have done so many steps."""
        notes = [read(path) for path in self._folder.glob("*.jsonl")]
        done = [lines for lines in notes if any(line.get("step") == step for line in lines)]
        return {lines[0]["rank"]: lines[0]["pid"] for lines in done} if len(done) == WORKERS else {}


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a worker, without one that is being written."""
    lines = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


def outcome(folder: Path, kills: Kills) -> dict[str, float]:
    """The clock times of one recovery, from the notes of rank 0 in its second life."""
    lives = sorted((read(path) for path in folder.glob("0-*.jsonl")), key=lambda lines: lines[0]["time"])
    assert len(lives) == 2, "the workers were not restarted once"
    first, second = lives
    done = max(line.get("step", 0) for line in first)
    before = [line["time"] for line in first if "step" in line]
    steps = {line["step"]: line["time"] for line in second if "step" in line}
    starting = next((line["starting"] for line in second if "starting" in line), {})
    begun = second[0]["time"]
    return {
        "killed": kills.killed,
        "others_gone": kills.others_gone,
        # A process that stood by had imported all.
        "imports": second[0]["imports"] if second[0]["imports"] > kills.killed else begun,
        "function": begun,
        "first_step": steps[min(steps)],
        "new_step": steps[done + 1],
        "again": done - (min(steps) - 1),
        "step": statistics.median(after - at for at, after in pairwise(before)),
        **{f"span_{name}": seconds for name, seconds in starting.items()},
    }


# ------------------------------------------------------------------------------------------------------------- ours


def noting(config: dict[str, Any]) -> None:
    """Our training function, which notes its steps."""
    from raypretrain.training.worker import Worker

    class NotingWorker(Worker):
        def __init__(self, job: Any) -> None:
            super().__init__(job)
            self.notes = Notes(job.recipe.corpus.sources[0].name, self.rank)

        def log_step(self, row: dict[str, Any], data: Any) -> None:
            super().log_step(row, data)
            first = self.rank == 0 and row["step"] == self.standing.step + 1
            self.notes.note(step=row["step"], **({"starting": self.starting} if first else {}))

    worker = NotingWorker(config["job"])
    with worker.heartbeat():
        worker.run()


def ours(preset: str, folder: Path, notes: Path) -> None:
    """A run of ours, to its end."""
    from text import write_corpus

    from raypretrain.config import validate
    from raypretrain.training.pretrain import pretrain
    from raypretrain.training.recipe import PretrainRecipe

    write_corpus(folder / "corpus", 3_000_000)
    values = {
        "run": {"folder": str(folder / "run")},
        # The workers find the folder of the notes by the name of the source.
        "corpus": {"sources": [{"path": str(folder / "corpus"), "name": str(notes)}]},
        "tokenizer": {"vocabulary": VOCABULARY, "sample": 1_000_000},
        "sequences": {"length": LENGTH, "window": 500_000},
        "model": {"preset": preset},
        "training": {
            "optimizer": "adamw",  # as the peer has
            "steps": STEPS,
            "global_batch": BATCH,
            "evaluation": {"sequences": 4, "every": 10**6},
            "checkpoint": {"every": EVERY},
        },
        "compute": {"workers": WORKERS, "device": "cpu", "cpus_per_worker": 0.5, "zero": 0},
    }
    recipe = validate(values, PretrainRecipe, folder=folder, where="benchmark")
    pretrain(recipe, lambda event: None, function=noting)


# ------------------------------------------------------------------------------------------------------- the peer's


def plain(config: dict[str, Any]) -> None:
    """A training function as Ray's guide has it: DDP, a checkpoint reported every few steps, taken up again at a start.

    It has no data to read: its batches are drawn at random.
    """
    import ray.train
    import ray.train.torch
    import torch

    from raypretrain.models.config import ModelConfig
    from raypretrain.models.llama import Llama

    rank = ray.train.get_context().get_world_rank()
    notes = Notes(config["notes"], rank)
    torch.set_num_threads(1)
    model = Llama(ModelConfig(preset=config["preset"]).shape(VOCABULARY, LENGTH))
    model.init_weights(0)
    model = ray.train.torch.prepare_model(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    step, checkpoint = 0, ray.train.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as place:
            state = torch.load(Path(place) / "state.pt", map_location="cpu")
        model.module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    draw = torch.Generator().manual_seed(rank)
    while step < STEPS:
        ids = torch.randint(0, VOCABULARY, (BATCH // WORKERS, LENGTH), generator=draw)
        model(ids[:, :-1], ids[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        notes.note(step=step)
        if step % EVERY == 0:
            with tempfile.TemporaryDirectory() as place:
                saved = None
                if rank == 0:
                    state = {
                        "model": model.module.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "step": step,
                    }
                    torch.save(state, Path(place) / "state.pt")
                    saved = ray.train.Checkpoint.from_directory(place)
                ray.train.report({"step": step}, checkpoint=saved)


def peer(preset: str, folder: Path, notes: Path) -> None:
    """Stock Ray Train with its defaults, on a cluster like ours."""
    import logging

    import ray
    import ray.train
    import ray.train.torch

    ray.init(
        num_cpus=os.cpu_count(),
        include_dashboard=False,
        object_store_memory=512 * 2**20,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    trainer = ray.train.torch.TorchTrainer(
        plain,
        train_loop_config={"preset": preset, "notes": str(notes)},
        scaling_config=ray.train.ScalingConfig(num_workers=WORKERS, resources_per_worker={"CPU": 0.5}),
        run_config=ray.train.RunConfig(
            name="peer",
            storage_path=str(folder / "peer"),
            failure_config=ray.train.FailureConfig(max_failures=3),
        ),
    )
    trainer.fit()


def measure(kind: str, preset: str, rank: int) -> dict[str, float]:
    """One recovery, in a process without the settings of this one."""
    theirs = ("RAY_", "DS_", "OMP_")
    with tempfile.TemporaryDirectory() as site:
        (Path(site) / "sitecustomize.py").write_text(SITE)
        here = Path(__file__)
        path = os.pathsep.join([site, str(here.parent), str(here.parent.parent)])
        environment = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
        command = [sys.executable, str(here), kind, preset, str(rank)]
        done = subprocess.run(
            command, env={**environment, "PYTHONPATH": path}, capture_output=True, text=True, timeout=400
        )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Run one."""
    kind, preset, rank = sys.argv[1:]
    with tempfile.TemporaryDirectory() as place:
        notes = Path(place) / "notes"
        notes.mkdir()
        kills = Kills(notes, int(rank))
        kills.start()
        {"ours": ours, "peer": peer}[kind](preset, Path(place), notes)
        print(json.dumps(outcome(notes, kills)))


if __name__ == "__main__":
    main()
