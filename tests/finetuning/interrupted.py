"""A search in a process of its own, to be interrupted: it prints every event, and its status when it has one."""

from __future__ import annotations

import re

INTERRUPTED = """
import sys
import ray
from raypretrain.config import load_recipe
from raypretrain.finetuning.recipe import FinetuneRecipe
from raypretrain.finetuning.finetune import finetune
from raypretrain.finetuning.search import search

def tell(event):
    print(event["event"], event.get("status"), flush=True)

alone = {"address": "local", "num_cpus": 1, "include_dashboard": False, "object_store_memory": 100_000_000}
ray.init(**alone, log_to_driver=False)
try:
    search(load_recipe(sys.argv[1], FinetuneRecipe), tell)
except KeyboardInterrupt:
    sys.exit(130)
"""
"""Given a recipe; on a local cluster of its own."""

ON_A_CLUSTER = re.sub(
    r"^ray\.init\(.*\)$",
    "ray.init(address=sys.argv[2], log_to_driver=False)",
    INTERRUPTED,
    flags=re.MULTILINE,
)
"""The same on the cluster at an address, the second argument."""
