"""Workers without Ray: a test file started once for each rank of a process group."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path


def start_workers(script: str, folder: Path, workers: int, *arguments: str) -> None:
    """Run ``script RANK FOLDER [ARGUMENTS]`` in as many processes as there are ``workers``, to their end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    common |= {"WORLD_SIZE": str(workers), "LOCAL_WORLD_SIZE": str(workers)}
    common |= {"PYTHONWARNINGS": "ignore::FutureWarning"}
    processes = []
    for rank in range(workers):
        command = [sys.executable, script, str(rank), str(folder), *arguments]
        environment = common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        with (folder / f"{rank}.log").open("w") as log:
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    try:
        for rank, process in enumerate(processes):
            assert process.wait(timeout=200) == 0, (folder / f"{rank}.log").read_text()[-3000:]
    finally:
        for process in processes:
            process.kill()


def leave() -> None:
    """End this worker as Ray ends its own: at once, when all of them have written what they found.

    DeepSpeed keeps the process groups beyond their end, and with them gloo's threads. One that wants the
    interpreter's lock while the interpreter ends is unwound through C++, which now and then aborts the process.
    """
    import torch.distributed as dist

    dist.barrier()
    sys.stdout.flush()
    os._exit(0)
