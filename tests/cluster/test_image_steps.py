"""The Dockerfile's steps without Docker, in a clean virtual environment; and install.sh of the launchers' nodes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.cluster_test, pytest.mark.timeout(600)]


def steps() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, e.g. ``("RUN", "pip install …")``, continued lines joined."""
    text = (ROOT / "cluster" / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in joined.splitlines()]


def copy(instruction: str, to: Path) -> None:
    *sources, _ = instruction.split()
    for source in sources:
        path = ROOT / source
        if path.is_dir():
            shutil.copytree(path, to / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, to)


def works(python: Path, elsewhere: Path) -> str:
    """What the command prints with that interpreter, far from the repository."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python.parent / "raypretrain", "--help"]
    done = subprocess.run(command, env=environment, cwd=elsewhere, capture_output=True, text=True, check=True)
    check = "import raypretrain, ray, torch, deepspeed; print(ray.__version__, raypretrain.__file__)"
    seen = subprocess.run(
        [python, "-c", check], env=environment, cwd=elsewhere, capture_output=True, text=True, check=True
    )
    assert str(python.parents[1]) in seen.stdout  # its own, not this repository's
    return done.stdout + seen.stdout


def test_the_images_packages_install(tmp_path: Path) -> None:
    venv, folder = tmp_path / "venv", tmp_path / "opt"
    folder.mkdir()
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # Left empty, pip takes PyTorch from where this machine has it.
    environment |= {"PATH": f"{venv / 'bin'}:{os.environ['PATH']}", "TORCH_INDEX": ""}
    installed = 0
    for kind, rest in steps():
        if kind == "COPY" and not rest.startswith("cluster/"):
            copy(rest, folder)
        elif kind == "RUN" and "pip install" in rest:
            installed += 1
            done = subprocess.run(
                ["bash", "-euc", rest], env=environment, cwd=folder, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout + done.stderr
    assert installed == 3
    assert "pretrain" in works(venv / "bin" / "python", tmp_path)


def test_a_node_installs_itself(tmp_path: Path) -> None:
    """install.sh, in an empty home, twice; uv looks for PyTorch where pip does here."""
    folder = tmp_path / "raypretrain"
    folder.mkdir()
    for source in ("raypretrain", "cluster", "pyproject.toml", "requirements.lock", "README.md", "LICENSE"):
        copy(f"{source} ./", folder)
    links = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.find-links"], capture_output=True, text=True
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {
        "HOME": str(tmp_path),
        "UV_FIND_LINKS": links.stdout.strip(),
        "UV_PYTHON_DOWNLOADS": "never",
    }
    if not links.stdout.strip():
        del environment["UV_FIND_LINKS"]
    for _ in range(2):
        done = subprocess.run(
            ["bash", folder / "cluster" / "install.sh", "s3"],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "2.60.0" in works(tmp_path / ".venv" / "bin" / "python", tmp_path)
    profile = (tmp_path / ".bashrc").read_text()
    assert profile.count("RAY_AUTH_MODE=token") == 1
    seen = subprocess.run(
        ["bash", "-ic", "command -v ray; echo $RAY_AUTH_MODE"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert seen.stdout.split() == [str(tmp_path / ".venv" / "bin" / "ray"), "token"]
