"""The rooms' imports point down only, and the heavy libraries stay at the edges."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "raypretrain"

# From the top down: a room may import what stands below it.
ORDER = [
    "cli",
    "clustercli",
    "corpuscli",
    "plancli",
    "runcli",
    "tunecli",
    "cliparts",
    "demo",
    "corpusview",
    "doctorview",
    "jobsview",
    "evaluationview",
    "tuneview",
    "planpage",
    "planview",
    "console",
    "statusview",
    "cluster",
    "sweeps",
    "finetuning",
    "training",
    "planning",
    "tokens",
    "corpus",
    "storage",
    "local",
    "buckets",
    "config",
    "recipe_lines",
    "errors",
]
FOUNDATION = {"config", "errors"}
RAY = {
    "cluster/doctor.py", "cluster/doors.py", "cluster/measure.py", "cluster/nodes.py", "cluster/probe.py",
    "tokens/dealer.py", "tokens/stream.py",
    "training/admission.py", "training/alone.py", "training/board.py", "training/cluster.py",
    "training/elastic.py", "training/exporting.py", "training/fitting.py", "training/growth.py",
    "training/preemption.py", "training/pretrain.py", "training/standby.py", "training/supervisor.py",
    "training/worker.py",
    "finetuning/attempt.py", "finetuning/coming.py", "finetuning/population.py", "finetuning/predicting.py",
    "finetuning/quiet.py", "finetuning/schedulers.py", "finetuning/search.py", "finetuning/tracking.py",
    "finetuning/workers.py",
    "cluster/jobserver.py",
}  # fmt: skip
DEEPSPEED = {"training/engine.py"}

FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module or ""
            if node.module == "raypretrain":
                yield from (f"raypretrain.{alias.name}" for alias in node.names)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_import_points_up(path: Path) -> None:
    here = room(path)
    if here in ("__init__", "__main__"):
        return
    for module in imports(path):
        parts = module.split(".")
        if parts[0] != "raypretrain" or len(parts) < 2 or parts[1] in ("__version__", here):
            continue
        if here == "models":
            assert parts[1] in FOUNDATION, f"models imports {module}"
        elif parts[1] == "models":
            assert ORDER.index(here) <= ORDER.index("training"), f"{here} imports models"
        else:
            assert ORDER.index(parts[1]) > ORDER.index(here), f"{here} imports {module}"


@pytest.mark.parametrize(("library", "allowed"), [("ray", RAY), ("deepspeed", DEEPSPEED)])
def test_ray_and_deepspeed_are_imported_at_the_edges_only(library: str, allowed: set[str]) -> None:
    found = {str(p.relative_to(PACKAGE)) for p in FILES if library in {m.split(".")[0] for m in imports(p)}}
    assert found == allowed


def test_the_command_line_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys, raypretrain.cli\n"
        "print([m for m in ('torch', 'ray', 'numpy', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
