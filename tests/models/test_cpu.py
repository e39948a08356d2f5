"""Of tests/models: how a process uses its CPUs and memory."""

import subprocess
import sys
from pathlib import Path

import pytest

import raypretrain

STEPS = """
import itertools, resource, sys
import torch
from raypretrain.models.cpu import use_cpus

if sys.argv[1] == "ours":
    use_cpus(1)
faults = []
for _ in range(9):
    kept = [torch.ones(size * 2**18) for size in (1, 16, 64, 200)]  # MiB
    del kept
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(torch.get_num_threads(), min(later - before for before, later in itertools.pairwise(faults)))
"""


def _faults(who: str) -> tuple[int, int]:
    """Threads, and the pages that a step has from the kernel; the least of some, as the heap has to settle."""
    said = subprocess.run(
        [sys.executable, "-c", STEPS, who], check=True, capture_output=True, text=True
    ).stdout
    threads, faults = said.split()
    return int(threads), int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="other C libraries decide by themselves")
def test_the_memory_of_a_step_is_the_next_ones():
    threads, faults = _faults("ours")
    assert threads == 1
    assert faults < 1000
    # Without it: 281 MiB by pages of 4 KiB; fewer where the kernel gives larger ones by itself.
    assert _faults("none")[1] > 10 * max(faults, 1)


def test_threads_are_set_nowhere_else():
    """Whoever sets them alone leaves the memory as it is."""
    package = Path(raypretrain.__file__).parent
    found = [path for path in package.rglob("*.py") if "set_num_threads" in path.read_text(encoding="utf-8")]
    assert found == [package / "models" / "cpu.py"]
