"""The commands about clusters; as in ``cli.py``, each parses, calls one function, and prints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

COMMANDS: tuple[Callable[..., Any], ...] = ()
"""What ``cli.py`` adds, in the order of the help."""
