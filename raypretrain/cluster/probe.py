"""What is measured on a node. It goes there by value, for the package may be missing there: imports nothing of ours."""

from __future__ import annotations

import glob
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

_COMMAND_SECONDS = 15.0
_STALE_SECONDS = 600.0
"""No extension takes so long to build."""

_PROGRAM = "#include <Python.h>\n#include <omp.h>\n#include <vector>\nint threads() { return omp_get_max_threads(); }\n"


def version(name: str) -> str | None:
    """The version of what is installed, or importable, here; None if nothing is."""
    if name == "python":
        return platform.python_version()
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
    try:
        found = importlib.util.find_spec(name)  # from a job's working folder, say
        return str(getattr(importlib.import_module(name), "__version__", "unknown")) if found else None
    except Exception:
        return None


class Probe:
    """An actor on a node. What a method returns are plain values, problems too: an exception would be ours."""

    def facts(self, libraries: list[str], places: dict[str, str], counts_gpus: bool) -> dict[str, Any]:
        """All that can be known without anybody else.

        Args:
            libraries: whose versions are wanted.
            places: what → the folder whose disk is to be measured.
            counts_gpus: whether Ray takes the node to have GPUs.
        """
        cards, problem = _cards()
        return {
            "versions": {name: version(name) for name in libraries},
            "cards": cards,
            "cards_problem": problem,
            "cuda": _cuda() if cards or counts_gpus else None,
            "shared_memory": _shared_memory(),
            "compiler": _compiler(),
            "ninja": _ninja(),
            "locks": _locks(),
            "disks": {what: disk(path) for what, path in places.items()},
        }

    def clock(self) -> float:
        """This node's clock, in seconds."""
        return time.time()

    def write(self, folder: str, name: str) -> str:
        """Write a file ``name``; returns why it cannot be, or nothing."""
        return write(folder, name)

    def names(self, folder: str) -> list[str]:
        """What is in ``folder``; nothing where it is not there."""
        try:
            return os.listdir(folder)
        except OSError:
            return []

    def remove(self, folder: str, name: str) -> None:
        """Take the file away, if it is there."""
        Path(folder, name).unlink(missing_ok=True)

    def put(self, size: int) -> list[Any]:
        """An object of ``size`` bytes in this node's store: its reference."""
        import ray

        return [ray.put(os.urandom(size))]

    def pull(self, refs: list[Any]) -> float:
        """Seconds that it takes to have that object here."""
        import ray

        begun = time.perf_counter()
        ray.get(refs[0])
        return time.perf_counter() - begun

    def read(self, files: list[tuple[str, int, int]], options: dict[str, Any] | None) -> dict[str, Any]:
        """Read ranges of objects as the stream does: seconds, or a problem and what to do.

        Args:
            files: URL, first byte, and the byte after the last of each.
        """
        return read(files, options)

    def free_port(self) -> int:
        """One that was free a moment ago."""
        import socket

        with socket.socket() as probe:
            probe.bind(("", 0))
            return int(probe.getsockname()[1])


def write(folder: str, name: str) -> str:
    """Write a file ``name`` in ``folder``; returns why it cannot be, or nothing."""
    if not os.path.isdir(folder):
        return "there is no such folder"
    try:
        with open(Path(folder, name), "x") as file:
            file.write(name)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror or str(error)
    return ""


def read(files: list[tuple[str, int, int]], options: dict[str, Any] | None) -> dict[str, Any]:
    """See :meth:`Probe.read`."""
    from concurrent.futures import ThreadPoolExecutor

    try:
        from raypretrain.errors import RaypretrainError
        from raypretrain.storage import read_range
    except ImportError:
        return {"problem": "not measured, raypretrain is not installed there", "do": "install it there"}
    begun = time.perf_counter()
    try:
        with ThreadPoolExecutor(8) as pool:
            parts = list(pool.map(lambda part: len(read_range(part[0], part[1], part[2], options)), files))
    except RaypretrainError as error:
        return {"problem": error.what, "do": error.fix or "", "where": error.where or ""}
    return {"bytes": sum(parts), "seconds": time.perf_counter() - begun}


def all_reduce(
    rank: int, workers: int, meeting: str, backend: str, numbers: int, seconds: float
) -> dict[str, Any]:
    """Add up ``numbers`` fp32 numbers over all workers, some times: the median time, and whether the sum is right.

    Args:
        meeting: ``host:port``, which worker 0 listens at.
        seconds: after which the others are given up.
    """
    from datetime import timedelta
    from statistics import median

    import torch
    import torch.distributed as dist

    try:
        limit = timedelta(seconds=seconds)
        dist.init_process_group(
            backend, init_method=f"tcp://{meeting}", rank=rank, world_size=workers, timeout=limit
        )
        device = torch.device("cuda" if backend == "nccl" else "cpu")
        took, right = [], True
        for _ in range(6):
            values = torch.full((numbers,), float(rank + 1), device=device)
            dist.barrier()
            begun = time.perf_counter()
            dist.all_reduce(values)
            right &= bool((values == workers * (workers + 1) / 2).all())  # which also waits for the GPU
            took.append(time.perf_counter() - begun)
        dist.destroy_process_group()
    except Exception as error:  # torch's, of many kinds: what it says is the finding
        return {"problem": str(error).strip().split("\n")[0] or type(error).__name__}
    return {"seconds": median(took[1:]), "right": right}


def _command(*words: str) -> tuple[str, str]:
    """Its output; or nothing, and what is wrong."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
    except FileNotFoundError:
        return "", f"there is no {words[0]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"{words[0]}: {error}"
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        errors = [line for line in said if "error" in line] or said
        return "", errors[0].strip() if errors else f"{words[0]} ends with status {done.returncode}"
    return done.stdout, ""


def _cards() -> tuple[list[tuple[str, str, int]], str]:
    """Kind, driver and memory in bytes of each GPU; or none, and why."""
    query = "--query-gpu=name,driver_version,memory.total"
    said, problem = _command("nvidia-smi", query, "--format=csv,noheader,nounits")
    cards = []
    for line in said.splitlines():
        kind, driver, memory = (part.strip() for part in line.rsplit(",", 2))
        cards.append((kind, driver, int(memory) << 20 if memory.isdigit() else 0))
    return cards, problem


def _cuda() -> str | None:
    """What this node's torch is built for: CUDA's version, or ROCm's; None for CPUs alone."""
    try:
        import torch.version
    except Exception:
        return None
    return torch.version.cuda or getattr(torch.version, "hip", None)


def _shared_memory() -> tuple[int, int] | None:
    """Total and free bytes of /dev/shm."""
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError:
        return None
    return usage.total, usage.free


def disk(path: str) -> dict[str, Any]:
    """Total and free bytes of the disk that ``path`` is on, or would be; or a problem."""
    existing = next((p for p in (Path(path), *Path(path).parents) if p.exists()), Path("/"))
    try:
        usage = shutil.disk_usage(existing)
    except OSError as error:
        return {"problem": error.strerror or str(error)}
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        return {"problem": f"{existing} cannot be written to"}
    return {"total": usage.total, "free": usage.free}


def _compiler() -> str:
    """Why a library like those of torch.compile cannot be built here; nothing if it can."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "try.cpp")
        source.write_text(_PROGRAM)
        flags = ("-shared", "-fPIC", "-fopenmp", f"-I{sysconfig.get_paths()['include']}")
        return _command("g++", *flags, str(source), "-o", str(source.with_suffix(".so")))[1]


def _ninja() -> bool:
    beside = os.path.dirname(sys.executable)
    return shutil.which("ninja", path=os.pathsep.join((os.environ.get("PATH", ""), beside))) is not None


def _locks() -> list[str]:
    """Old lock files of PyTorch's builder of extensions, which it would wait for."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or os.path.join(cache, "torch_extensions")
    found = [*glob.glob(f"{root}/*/lock"), *glob.glob(f"{root}/*/*/lock")]
    return sorted(path for path in found if time.time() - os.path.getmtime(path) > _STALE_SECONDS)
