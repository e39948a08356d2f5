"""Dollars and energy of a run, by prices that are the user's or have a date and a source."""

from __future__ import annotations

from dataclasses import dataclass

from raypretrain.errors import InputError
from raypretrain.planning.hardware import SPOT, Gpu

MONTH = 730.0
"""Hours."""

STORAGE = 0.023
"""Dollars for a GB and month: Amazon S3, standard, the first 50 TB, us-east-1, 2025. As remembered."""

EGRESS = 0.09
"""Dollars for a GB that leaves a cloud: AWS to the internet, the first 10 TB of a month, 2025. As remembered."""

KWH = 0.09
"""Dollars for a kWh: what industry paid in the United States in 2025 (EIA), roughly. As remembered."""

LOAD = 0.9
"""Of a GPU's highest draw, in training. A guess."""

PUE = 1.1
"""Energy of the data centre ÷ that of the machines in it: 1.08 to 1.12 is what large operators report."""

OVERHEAD = 1.3
"""Energy of a node ÷ that of its GPUs. A guess: a DGX H100 draws at most 10.2 kW for 8 GPUs of 700 W, 1.8."""


@dataclass(frozen=True, kw_only=True)
class Prices:
    """In dollars.

    Args:
        gpu_hour: of a GPU; None takes the table's.
        kwh: of electricity.
        spot: the GPUs are spot instances, at the table's price times :data:`SPOT` unless ``gpu_hour`` is given.
    """

    gpu_hour: float | None = None
    kwh: float = KWH
    spot: bool = False

    @classmethod
    def given(cls, gpu_hour: float | None, kwh: float | None, spot: bool) -> Prices:
        """As the command line has them: None is not given.

        Raises:
            InputError: a price that is negative.
        """
        for name, value in (("--price", gpu_hour), ("--kwh", kwh)):
            if value is not None and not 0 <= value < float("inf"):
                raise InputError(f"{value:g} dollars is no price", where=name, fix="give a number from 0 on")
        return cls(gpu_hour=gpu_hour, kwh=KWH if kwh is None else kwh, spot=spot)

    def of(self, gpu: Gpu) -> float:
        """Dollars of a GPU-hour.

        Raises:
            InputError: none is given, and none is known.
        """
        if self.gpu_hour is not None:
            return self.gpu_hour
        if not gpu.price:
            raise InputError(
                f"no price is known of '{gpu.name}'", where="--price", fix="give dollars an hour"
            )
        return gpu.price * (SPOT if self.spot else 1.0)


def money(
    gpu: Gpu, prices: Prices, gpu_hours: float, hours: float, stored: float, corpus: float
) -> dict[str, float]:
    """Dollars by part, and kilowatt-hours.

    Args:
        stored: bytes of the checkpoints that are kept at one time.
        corpus: bytes of the corpus, which lies beside the GPUs for as long.
    """
    kilowatt_hours = gpu_hours * gpu.watts * LOAD * OVERHEAD * PUE / 1000
    rent = gpu_hours * prices.of(gpu)
    storage = (stored + corpus) / 1e9 * STORAGE * max(1.0, hours / MONTH)  # a month at least
    return {
        "gpus": rent,
        "storage": storage,
        "total": rent + storage,
        "egress_of_a_checkpoint": stored / 1e9 * EGRESS,
        "kilowatt_hours": kilowatt_hours,
        "electricity": kilowatt_hours * prices.kwh,
    }
