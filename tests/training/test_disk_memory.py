"""Tensors whose memory is a file without a name: equal to others, and refused in one line where there is no room."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raypretrain.errors import StorageError
from raypretrain.training.buffers import Buffers
from raypretrain.training.disk_memory import DiskMemory
from raypretrain.training.optimizer import VetoedAdamW


def trained(disk: DiskMemory | None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(50, 30))
    optimizer = VetoedAdamW([weight], lr=0.1)
    optimizer.disk = disk
    for step in range(3):
        weight.grad = torch.sin(weight.detach() * (step + 1))
        optimizer.step()
    return weight.detach(), optimizer.state[weight]


def test_a_step_is_the_same_with_its_moments_in_files(tmp_path: Path) -> None:
    weight, state = trained(DiskMemory(tmp_path / "new" / "disk"))
    wanted, wanted_state = trained(None)
    assert torch.equal(weight, wanted)
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(state[name], wanted_state[name])
        assert state[name].untyped_storage().filename.startswith(str(tmp_path / "new" / "disk"))
        assert wanted_state[name].untyped_storage().filename is None
    assert list((tmp_path / "new" / "disk").iterdir()) == []


def test_a_copy_of_state_lies_in_files_and_uses_them_again(tmp_path: Path) -> None:
    buffers = Buffers(DiskMemory(tmp_path).empty_like)
    places = []
    for value in (1.0, 2.0):
        source = {
            "a": torch.full((3, 4), value),
            "half": torch.full((5,), value).bfloat16(),
            "none": torch.empty(0),
        }
        copy = buffers.copy("name", source)
        buffers.waits()()
        assert all(torch.equal(copy[key], source[key]) for key in source)
        places.append(copy["a"].data_ptr())
        assert copy["a"].untyped_storage().filename
    assert places[0] == places[1]


def test_a_disk_without_room_is_one_line(tmp_path: Path) -> None:
    huge = torch.empty(1).expand(2**50)  # 4 PiB in no memory
    with pytest.raises(
        StorageError, match=r"offload_folder .*: 4,503,599,627,370,496 bytes .* cannot be kept here"
    ):
        DiskMemory(tmp_path).empty_like(huge)


def test_a_folder_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"compute\.offload_folder"):
        DiskMemory(tmp_path / "file" / "below").empty_like(torch.ones(3))
