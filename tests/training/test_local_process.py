"""``--local-process``: a whole run in one process, the same as any other."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from runs import fingerprints, metrics, run
from striking import assert_exact, start_command, wait_for_step

from raypretrain.config import load_recipe
from raypretrain.errors import RecipeError
from raypretrain.training.alone import one_worker
from raypretrain.training.checkpoint import committed, problem_of
from raypretrain.training.recipe import PretrainRecipe

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ONE = "compute.workers=1"


def start(recipe: Path, folder: Path, *overrides: str) -> subprocess.Popen[str]:
    """The command with ``--local-process``."""
    command = [sys.executable, "-m", "raypretrain.cli", "pretrain", str(recipe), "--local-process", "--json"]
    for override in (f"run.folder={folder}", ONE, *overrides):
        command += ["--set", override]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, stdin=pipe, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    said: dict[str, Any] = json.loads(out)
    return said


@pytest.fixture(scope="module")
def on_ray(cluster: str, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one worker under Ray."""
    folder = tmp_path_factory.mktemp("runs") / "on-ray"
    assert run(tiny_recipe, folder, ONE).status == "finished"
    return folder


def test_a_run_in_one_process_is_the_run_on_ray(on_ray: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(tiny_recipe, folder)
    wait_for_step(process, folder, 2)
    assert not psutil.Process(process.pid).children()  # neither Ray's processes nor others
    assert finish(process)["status"] == "finished"
    assert_exact(folder, on_ray)
    assert [problem_of(kept) for kept in committed(folder / "checkpoints")] == [None, None]
    assert (folder / "model" / "model.safetensors").read_bytes() == (
        on_ray / "model" / "model.safetensors"
    ).read_bytes()


def test_ctrl_c_saves_and_ray_goes_on_from_there(on_ray: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(tiny_recipe, folder)
    wait_for_step(process, folder, 5)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    stopped = json.loads(out)
    assert stopped["status"] == "stopped"
    assert 5 <= stopped["step"] < 40
    assert run(tiny_recipe, folder, ONE).status == "finished"
    assert_exact(folder, on_ray)


@pytest.mark.long
def test_what_two_workers_began_goes_on_in_one_process(
    cluster: str, on_ray: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    process = start_command(tiny_recipe, folder)
    wait_for_step(process, folder, 12)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert finish(start(tiny_recipe, folder))["status"] == "finished"
    assert fingerprints(folder) == fingerprints(on_ray)
    apart = [abs(a["loss"] / b["loss"] - 1) for a, b in zip(metrics(folder), metrics(on_ray), strict=True)]
    assert max(apart) < 1e-2


def test_a_breakpoint_stops_in_the_run(tiny_recipe: Path, tmp_path: Path) -> None:
    """In the loop, and in what makes the batches: both are in the process that has the terminal."""
    code = (
        "import pdb, sys\n"
        "from raypretrain import cli\n"
        "from raypretrain.tokens.window import Windows\n"
        "from raypretrain.training.worker import Worker\n"
        "debugger = pdb.Pdb()\n"
        "for function in (Windows.parts, Worker.log_step):\n"
        "    code = function.__code__\n"
        "    lines = [line for *_, line in code.co_lines() if line and line > code.co_firstlineno]\n"
        "    debugger.set_break(code.co_filename, min(lines), temporary=True)\n"
        "debugger.runcall(cli.main)\n"
    )
    arguments = ["pretrain", str(tiny_recipe), "--local-process"]
    for override in (f"run.folder={tmp_path / 'run'}", ONE):
        arguments += ["--set", override]
    process = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        input="c\nc\nq\n",
        capture_output=True,
        text=True,
        timeout=120,
    )
    stops = [line for line in process.stdout.splitlines() if line.endswith("()") and "raypretrain" in line]
    assert [line.rpartition(")")[0].rpartition(")")[2] for line in stops] == ["main(", "parts(", "log_step("]


def test_more_workers_than_one_are_refused(tiny_recipe: Path, tmp_path: Path) -> None:
    for workers in ("2", "[2, 4]"):
        recipe = load_recipe(tiny_recipe, PretrainRecipe, [f"compute.workers={workers}"])
        with pytest.raises(RecipeError, match="2 workers do not fit into one process") as caught:
            one_worker(recipe)
        assert caught.value.where == "compute.workers"
    free = load_recipe(tiny_recipe, PretrainRecipe, ["compute.workers=[1, 4]"])
    assert one_worker(free).compute.workers == 1
