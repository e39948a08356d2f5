"""Row 21: a stale lock of the builder of PyTorch's extensions, as a process leaves it that is killed in a build."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from fault_table import Account

pytestmark = [pytest.mark.slow, pytest.mark.faults]

ENGINE = """
import sys
import torch, torch.distributed as dist
from raypretrain.models.config import ModelConfig
from raypretrain.models.llama import Llama
from raypretrain.training.engine import Engine, EngineSettings
from raypretrain.training.microbatch import MicroBatch
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
shape = ModelConfig(preset="llama-1m", width=32, layers=1, heads=2, feed_forward=64).shape(128, 16)
settings = EngineSettings(zero=1, precision="fp32", micro_batch=1, accumulation=1, workers=1, learning_rate=1e-3,
                          weight_decay=0.1, betas=(0.9, 0.95), epsilon=1e-8, clip=1.0)
engine = Engine(Llama(shape), settings, torch.device("cpu"))
ids = torch.zeros(1, 16, dtype=torch.long)
print(float(engine.accumulate([MicroBatch(ids, ids)])), engine.step(1e-3))
"""


@pytest.mark.row(21, "a stale lock of the extension builder")
@pytest.mark.timeout(120)
def test_a_stale_lock_of_the_extension_builder_hangs_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, account: Account
) -> None:
    import deepspeed.ops.op_builder.all_ops as builders
    from torch.utils.cpp_extension import _get_build_directory
    from torch.utils.file_baton import FileBaton

    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    monkeypatch.setenv("LOCAL_RANK", "0")
    names = ["deepspeed_shm_comm", "deepspeed_ccl_comm", "utils", *builders.ALL_OPS]
    folders = [Path(_get_build_directory(name, verbose=False)) for name in names]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lock").touch()
    assert not FileBaton(str(folders[0] / "lock")).try_acquire(), "it would not have waited for this lock"
    begun = time.monotonic()
    command = [sys.executable, "-c", ENGINE, str(tmp_path / "meeting")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    took = time.monotonic() - begun
    account(how=f"lock files of {len(folders)} extensions", lost="nothing", seconds=took)
    assert len(done.stdout.split()) == 2
    assert all((folder / "lock").exists() for folder in folders)
