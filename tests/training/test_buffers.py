"""A copy of training's state shares nothing with it, is whole, and uses its memory again."""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from raypretrain.storage import sha256_file
from raypretrain.training.buffers import Buffers, tensors
from raypretrain.training.writing import write_part


def state() -> dict[str, Any]:
    flat = torch.arange(24.0)
    tied = torch.nn.Parameter(torch.randn(7, 5))
    return {
        "module": OrderedDict(a=flat[:10].view(2, 5), b=flat[10:], tied=tied, again=tied.detach()),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0), "m": torch.randn(3).to(torch.bfloat16)}}},
        "groups": [{"lr": 0.1, "betas": (0.9, 0.95)}, {"lr": 0.2}],
        "strange": torch.randn(6, 4).t(),
        "empty": torch.empty(0),
        "scaler": SimpleNamespace(scale=2.0, inside=torch.ones(2)),
    }


def copied(buffers: Buffers, name: str, state: Any) -> Any:
    """A copy that is whole."""
    made = buffers.copy(name, state)
    buffers.waits()()
    return made


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, SimpleNamespace):
        return equal(vars(a), vars(b))
    return bool(a == b)


def test_a_copy_is_equal_and_stays_so_while_training_goes_on() -> None:
    live = state()
    made = copied(Buffers(), "x", live)
    assert equal(live, made)
    before = state_bytes(made)
    for tensor in tensors(live):
        tensor.data.add_(1)
    live["scaler"].inside.add_(1)
    live["scaler"].scale = 4.0
    live["groups"][0]["lr"] = 0.5
    assert state_bytes(made) == before
    assert not equal(live, made)


def test_the_next_copy_lies_in_the_same_memory_and_one_of_other_shapes_in_its_own() -> None:
    buffers, live = Buffers(), state()
    places = [t.data_ptr() for t in tensors(copied(buffers, "x", live))]
    for tensor in tensors(live):
        tensor.data.mul_(2)
    again = copied(buffers, "x", live)
    assert [t.data_ptr() for t in tensors(again)] == places
    assert equal(live, again)
    live["strange"] = torch.randn(9, 9)
    assert equal(live, copied(buffers, "x", live))
    other = copied(buffers, "y", live)
    assert {t.data_ptr() for t in tensors(other) if t.numel()}.isdisjoint(places)


def test_tied_weights_are_copied_and_written_once_and_a_view_without_the_rest_of_its_memory(
    tmp_path: Path,
) -> None:
    whole = torch.randn(1_000_000)
    tied = {"a": whole[:1000], "b": whole[:1000]}
    files = write_part(tmp_path, [("engine/x.pt", copied(Buffers(), "x", tied))])
    assert files["engine/x.pt"]["bytes"] < 8_000
    loaded = torch.load(tmp_path / "engine" / "x.pt")
    assert loaded["a"].data_ptr() == loaded["b"].data_ptr()
    assert torch.equal(loaded["a"], whole[:1000])


def test_large_state_is_copied_by_several_threads_to_the_same_values() -> None:
    live = {"flat": torch.randn(9_000_001), "other": torch.randn(3000, 1000)}
    assert equal(live, copied(Buffers(), "x", live))


def test_what_is_written_has_the_hash_and_the_size_that_are_told(tmp_path: Path) -> None:
    live = {"small": 1, "large": torch.randn(300_000), "text": "x" * 100_000}
    files = write_part(tmp_path, [("a.pt", live), ("deep/er/b.pt", {"t": torch.ones(3)})])
    assert list(files) == ["a.pt", "deep/er/b.pt"]
    for name, about in files.items():
        assert about == {"bytes": (tmp_path / name).stat().st_size, "sha256": sha256_file(tmp_path / name)}
    assert equal(torch.load(tmp_path / "a.pt"), live)


def state_bytes(value: Any) -> bytes:
    into = io.BytesIO()
    torch.save(value, into)
    return into.getvalue()


def test_large_tensors_are_copied_meanwhile_and_whole_once_that_was_waited_for() -> None:
    live = {
        "bf16": torch.randn(3_000_001).to(torch.bfloat16),
        "fp32": torch.randn(9_000_000).view(3000, 3000),
        "int": torch.arange(700_000),
        "turned": torch.randn(900, 900).t(),
    }
    buffers = Buffers()
    for _ in range(3):  # the memory is used again
        made = buffers.copy("x", live)
        wait = buffers.waits()
        wait()
        wait()
        assert equal(live, made)
        for tensor in live.values():
            tensor.add_(1)
        assert not equal(live, made)
