"""What the tests on clusters share with those of fine-tuning: a base model and a task."""

from small_base import base, data

__all__ = ["base", "data"]
