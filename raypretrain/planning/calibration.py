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


# Fitted by benchmarks/planning.py to all rows of benchmarks/measured_throughput.csv; a test compares.
_SHARED = {"memory": 0.528, "link": 0.437, "network": 0.477, "launch": 3.39e-4, "hidden": 0.43, "fp8": 1.79}
_FROM = "fitted to 108 measured runs of MPT, 125M to 70B (MosaicML's llm-foundry, 2023)"

CALIBRATIONS: dict[str, Calibration] = {
    "ampere": Calibration(products=0.849, attention=0.316, source=_FROM, **_SHARED),
    "hopper": Calibration(products=0.716, attention=0.179, source=_FROM, **_SHARED),
    # docs/performance.md, profile_step.py: products 0.9, attention 0.8 of the fastest product of a thread.
    "cpu": Calibration(
        products=0.9, attention=0.8, memory=0.5, link=0.1, network=0.1, launch=1e-4, hidden=0.0, fp8=1.0,
        source="docs/performance.md, one thread of an AMD EPYC",
    ),
}  # fmt: skip
"""By :attr:`~raypretrain.planning.hardware.Gpu.efficiency`."""
