"""What the tests of fine-tuning share."""

from small_base import base, data, encoder_base, recipe

__all__ = ["base", "data", "encoder_base", "recipe"]
