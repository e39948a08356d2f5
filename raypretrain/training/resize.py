"""Another number of workers: a checkpoint's engine files, converted into DeepSpeed's universal layout.

checkpoints/.universal-step-00001000/engine/…   a scratch folder beside the checkpoint, removed once it is loaded

DeepSpeed's ZeRO files belong to the number of workers that wrote them. Its universal layout (Lian et al., Universal
Checkpointing, 2024) has one file for each parameter and each part of the optimizer's state, and belongs to nobody.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from raypretrain.errors import RunError

ENGINE = "engine"  # the tag that the engine saves under
_PREFIX = ".universal-"
_MODULE = "deepspeed.checkpoint.ds_to_universal"


def needs_conversion(saved_by: int, workers: int, zero: int) -> bool:
    """Whether files of ``saved_by`` workers have to be converted for ``workers``.

    Without ZeRO every worker holds everything, and one of them writes it.
    """
    return saved_by != workers and zero > 0


def scratch_folder(checkpoint: Path) -> Path:
    """Where the converted files of ``checkpoint`` go; nothing that looks for checkpoints looks there."""
    return checkpoint.parent / f"{_PREFIX}{checkpoint.name}"


def clear_scratch(checkpoints: Path) -> None:
    """Remove converted files, also those of a start that was cut short."""
    for folder in checkpoints.glob(f"{_PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Conversion:
    """A conversion under way, in a process of its own: it runs while the engine is built."""

    checkpoint: Path
    folder: Path
    process: subprocess.Popen[bytes]

    def finish(self) -> Path:
        """Wait for it; returns the folder with the converted files.

        Raises:
            RunError: it failed; its last line says why.
        """
        log = self.folder / "log"
        if self.process.wait():
            said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            raise RunError(
                f"cannot be converted for another number of workers ({said[-1] if said else 'no reason given'})",
                where=str(self.checkpoint),
                fix="make room beside it, or go on with as many workers as saved it",
            )
        log.unlink()
        return self.folder


def start_conversion(checkpoint: Path) -> Conversion:
    """Begin to convert ``checkpoint``, which stays as it is."""
    folder = scratch_folder(checkpoint)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    jobs = str(max(1, os.cpu_count() or 1))
    command = [sys.executable, "-m", _MODULE, "--inject_missing_state"]
    command += ["--input_folder", str(checkpoint / ENGINE), "--output_folder", str(folder / ENGINE)]
    command += ["--num_extract_workers", jobs, "--num_merge_workers", jobs]
    # It only moves numbers between files: no accelerator, no compiler.
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    return Conversion(checkpoint, folder, process)
