"""What the tests of the schedule share: beside the tiny run of all tests, a base model and a task."""

from small_base import base, data
from small_base import recipe as finetuning_recipe

__all__ = ["base", "data", "finetuning_recipe"]
