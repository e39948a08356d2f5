"""The commands of somebody who has a cluster, as processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from head import Head, without_ray

from raypretrain.training.metrics import read_log

_PACKAGE = Path(__file__).parent.parent.parent


class Client:
    """Runs ``raypretrain`` and ``ray`` against a head, in a folder of its own.

    Args:
        environment: how it authenticates; by default rightly.
    """

    def __init__(self, head: Head, folder: Path, **environment: str) -> None:
        self.head, self.folder = head, folder
        given = environment or head.environment
        address = {"RAY_API_SERVER_ADDRESS": head.address, "PYTHONPATH": str(_PACKAGE), "HOME": str(folder)}
        self.environment = {**without_ray(), **address, **given}

    def start(self, *arguments: object, module: str = "raypretrain") -> subprocess.Popen[str]:
        """A command that is not waited for."""
        return subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=self.environment,
        )

    def run(
        self, *arguments: object, module: str = "raypretrain", within: float = 150
    ) -> tuple[int, str, str]:
        """A command's status, stdout and stderr."""
        process = self.start(*arguments, module=module)
        try:
            out, error = process.communicate(timeout=within)
        finally:
            process.kill()
        return process.returncode, out, error

    def ray(self, *arguments: object) -> str:
        """What a command of Ray's prints; it has to end well."""
        status, out, error = self.run(*arguments, module="ray.scripts.scripts")
        assert status == 0, out + error
        return out

    def says(self, *arguments: object) -> Any:
        """What a command says as JSON; it has to end well."""
        status, out, error = self.run(*arguments, "--json")
        assert status == 0, error
        return json.loads(out)

    def fails(self, *arguments: object) -> str:
        """The one line with which a command refuses something."""
        status, out, error = self.run(*arguments)
        assert (status, out, error.count("\n")) == (2, "", 1), out + error
        return error.removeprefix("raypretrain: ").rstrip()


def wait_until(true: Callable[[], object], seconds: float = 90) -> None:
    """Until ``true()``; fails if it takes longer."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it does not get there"
        time.sleep(0.1)


def last_step(folder: Path) -> int:
    """The last step that a run has done."""
    rows = read_log(folder / "metrics.jsonl")
    return rows[-1]["step"] if rows else 0
