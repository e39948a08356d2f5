"""What the report's numbers look like: scales, round ticks, and values as text. Plain functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MISSING = "–"
"""Stands where nothing was measured."""

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Scale:
    """From values to places in a picture.

    Args:
        low, high: the values at the two ends, low < high; both positive on a logarithmic scale.
        start, end: the places of ``low`` and ``high``, in the picture's units.
        log: equal ratios, not equal differences, are equally long.
        whole: ticks stand at whole numbers alone.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False

    def at(self, value: float) -> float:
        """The place of ``value``."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        share = ((math.log(value) if self.log else value) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values from ``low`` to ``high``, ascending."""
        if self.log and len(found := _powers(self.low, self.high, most)) > 1:
            return found
        return round_values(self.low, self.high, most, whole=self.whole)


def scale(
    values: Sequence[float],
    start: float,
    end: float,
    *,
    log: bool = False,
    whole: bool = False,
    margin: float = 0.05,
) -> Scale:
    """The scale that shows all ``values`` (at least one), with ``margin`` of their range free at both ends."""
    low, high = min(values), max(values)
    if log:
        wide = (high / low) ** margin if high > low else 2.0
        return Scale(low / wide, high * wide, start, end, log=True, whole=whole)
    if high - low <= 1e-6 * max(abs(low), abs(high), 1e-6):  # one value, but for rounding
        free = max(abs(high) * margin, 0.5 if whole else 0.01)
    else:
        free = (high - low) * margin
    return Scale(low - free, high + free, start, end, whole=whole)


def round_values(low: float, high: float, most: int, *, whole: bool = False) -> list[float]:
    """At most ``most`` multiples of 1, 2, 2.5 or 5 times a power of ten from ``low`` to ``high``."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    steps = [step * power * ten for ten in (1, 10) for step in _STEPS]
    for step in steps:
        if step < rough or (whole and step != int(step)):
            continue
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            return [round(i * step, 12) for i in range(first, last + 1)]
    return [math.ceil(low)] if whole else []


def _powers(low: float, high: float, most: int) -> list[float]:
    """1, 2 and 5 times powers of ten; the powers alone, or every second or third, where those are too many."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [m * 10.0**e for e in exponents for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    if len(fine) <= most:
        return fine
    coarse = [10.0**e for e in exponents if low <= 10.0**e <= high]
    return coarse[:: math.ceil(len(coarse) / most)]


def tick_text(value: float) -> str:
    """A tick's value, as short as it can be: ``0.25``, ``1,000``, ``1e-5``."""
    if value == 0:
        return "0"
    if abs(value) >= 1000 and value == int(value) and abs(value) < 1e7:
        return _minus(f"{value:,.0f}")
    mantissa, e, exponent = f"{value:.6g}".partition("e")
    return _minus(f"{mantissa}e{int(exponent)}" if e else mantissa)


def score_text(value: float | None, sign: bool = False) -> str:
    """A score or a loss: three decimals, or as many as tell a small one from nothing."""
    if value is None:
        return MISSING
    plus = "+" if sign else ""
    if 0 < abs(value) < 0.001:
        return _minus(f"{value:{plus}.2g}")
    return _minus(f"{value:{plus},.{_decimals(value)}f}")


def as_shown(value: float) -> float:
    """``value`` as :func:`score_text` rounds it: differences of what is shown come out as they are shown."""
    return float(f"{value:.2g}") if abs(value) < 0.001 else round(value, _decimals(value))


def _decimals(value: float) -> int:
    return 3 if abs(value) < 100 else 1


def count_text(value: float | None) -> str:
    """A whole number: ``1,127,296``."""
    return MISSING if value is None else f"{value:,.0f}"


def amount_text(value: float | None) -> str:
    """Seconds or hours in a table, three digits: ``0.0114``, ``41.3``, ``1,204``."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if value >= 100 else tick_text(float(f"{value:.3g}"))


def time_text(seconds: float | None) -> str:
    """A time in the unit that suits it."""
    if seconds is None:
        return MISSING
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _minus(text: str) -> str:
    return text.replace("-", "−", 1) if text.startswith("-") else text
