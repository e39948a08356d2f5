"""What share of the data sheets' figures training reaches: found from measured runs, or taken from one's own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Efficiencies of a step.

    Args:
        products: share of the peak that large matrix products reach.
        attention: share of the peak that the attention kernels reach, of the scores that a causal mask leaves.
        memory: share of the memory's bandwidth that operations on single entries reach.
        link, network: share of the links' bandwidth that collectives reach, in a node and between nodes.
        launch: seconds of a layer and pass that no kernel runs.
        hidden: share of the communication that runs beside computing.
        halves: how many times as long as its bytes say an entry of 16 bits takes: CPUs convert them.
        fp8: how much faster products are in fp8 than in bf16, where the peak is twice as high.
        source: where it is from.
    """

    products: float
    attention: float
    memory: float
    link: float
    network: float
    launch: float
    hidden: float
    fp8: float
    source: str
    halves: float = 1.0


# Fitted by benchmarks/planning.py to all rows of benchmarks/measured_throughput.csv; a test compares.
_SHARED = {"memory": 0.528, "link": 0.437, "network": 0.477, "launch": 3.39e-4, "hidden": 0.43, "fp8": 1.79}
_FROM = "fitted to 108 measured runs of MPT, 125M to 70B (MosaicML's llm-foundry, 2023)"

CALIBRATIONS: dict[str, Calibration] = {
    "ampere": Calibration(products=0.849, attention=0.316, source=_FROM, **_SHARED),
    "hopper": Calibration(products=0.716, attention=0.179, source=_FROM, **_SHARED),
    # Fitted by benchmarks/planning_runs.py to all its runs. What a pass of a layer costs beside its operations is in
    # launch: many small ones, and the kernel's zeroing of memory.
    "cpu": Calibration(
        products=0.876, attention=0.788, memory=0.927, link=0.0237, network=0.1, launch=0.0175, hidden=0.0, fp8=1.0,
        halves=2.14, source="fitted to 26 runs on a thread or two of an AMD EPYC (benchmarks/planning_runs.py)",
    ),
}  # fmt: skip
"""By :attr:`~raypretrain.planning.hardware.Gpu.efficiency`."""
