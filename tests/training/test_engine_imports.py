"""What an engine imports: a worker that starts again waits for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
import torch, torch.distributed as dist
from raypretrain.models.config import ModelConfig
from raypretrain.models.llama import Llama
from raypretrain.training.engine import Engine, EngineSettings
from raypretrain.training.microbatch import MicroBatch

dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
model = Llama(ModelConfig(preset="llama-1m", width=32, layers=1, heads=2, feed_forward=64).shape(64, 16))
model.init_weights(0)
settings = EngineSettings(int(sys.argv[2]), "fp32", 1, 1, 1, 1e-3, 0.1, (0.9, 0.95), 1e-8, 1.0)
engine = Engine(model, settings, torch.device("cpu"))
ids = torch.randint(0, 64, (1, 16))
engine.accumulate([MicroBatch(ids, ids)])
engine.step(1e-3)
print(sorted(sys.modules.keys() & {"torch._dynamo", "torch._inductor", "sympy"}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 2])
def test_a_step_needs_no_compiler(tmp_path_factory: pytest.TempPathFactory, zero: int) -> None:
    meeting = tmp_path_factory.mktemp("meeting") / "file"
    environment = {**os.environ, "LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1"}
    command = [sys.executable, "-c", PROGRAM, str(meeting), str(zero)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr[-2000:]
