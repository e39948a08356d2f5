"""What the tests of fine-tuning share."""

from small_base import base, data, recipe

__all__ = ["base", "data", "recipe"]
