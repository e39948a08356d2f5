"""The table for GPUs comes out on a machine that has neither Ray nor DeepSpeed nor any peer's library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
RUN = """
import runpy, sys
sys.modules.update(dict.fromkeys({without}))  # as if they were not installed
sys.path.insert(0, {folder!r})
sys.argv = ["gpu.py", *{arguments}]
runpy.run_path({script!r}, run_name="__main__")
"""
LARGE = ["ray", "deepspeed", "transformers", "accelerate", "litgpt"]


def _run(without: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    values = {"without": without, "arguments": list(arguments)}
    code = RUN.format(**values, folder=str(SCRIPT.parent), script=str(SCRIPT))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_it_runs_with_torch_alone_and_says_who_is_missing(tmp_path):
    file = tmp_path / "rows.json"
    done = _run(LARGE, "--quick", "--device", "cpu", "--json", str(file))
    assert done.returncode == 0, done.stderr
    for name in ("transformers", "Trainer", "litgpt"):
        assert f"{name} is left out: " in done.stdout
    rows = {row["name"]: row for row in json.loads(file.read_text())}
    assert rows["ours ÷ nanoGPT-style: nano, bf16"]["goal"] == 1.6
    assert 0 < rows["FLOP/s ÷ peak: ours, nano, bf16"]["ratio"] < 1


@pytest.mark.slow
def test_it_says_in_a_line_what_it_needs():
    done = _run(["pydantic"], "--quick", "--device", "cpu")
    assert (done.returncode, done.stderr) == (1, "gpu.py needs pydantic: pip install pydantic\n")
