"""Weights are read whole and fit, or are refused by name; nothing in them is executed."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fullgrad.errors import ModelLoadError
from fullgrad.vision.checkpoints import in_order_of, load_state, read_checkpoint

torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrapped_checkpoints(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    module, path = small(), tmp_path / "w.pth"
    state: Any = {prefix + k: v for k, v in module.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, path)
    found = read_checkpoint(path)
    other = small()
    load_state(other, found, "w.pth")
    assert torch.equal(other.state_dict()["0.weight"], module.state_dict()["0.weight"])


def test_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    state = small().state_dict()
    safetensors.save_file(state, tmp_path / "w.safetensors")
    found = read_checkpoint(tmp_path / "w.safetensors")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[k], state[k]) for k in state)


def test_damaged_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "w.safetensors"
    safetensors.save_file(small().state_dict(), path)
    for content in (path.read_bytes()[:-50], path.read_bytes()[:5], b"nonsense" * 99):
        path.write_bytes(content)
        with pytest.raises(ModelLoadError, match="is truncated, damaged or no safetensors file"):
            read_checkpoint(path)


def test_code_in_a_checkpoint_is_not_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (mark,))

    path = tmp_path / "evil.pth"
    message = r"evil\.pth holds more than tensors: loading it would execute code in it, which full"
    torch.save({"state_dict": small().state_dict(), "extra": Evil()}, path)
    with pytest.raises(ModelLoadError, match=message):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ModelLoadError, match=r"evil\.pth (holds more than tensors|is truncated)"):
        read_checkpoint(path)
    assert not mark.exists()


def test_a_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(small(), tmp_path / "whole.pth")
    with pytest.raises(ModelLoadError, match=r"Save model\.state_dict\(\) alone"):
        read_checkpoint(tmp_path / "whole.pth")


@pytest.mark.parametrize("keep", [0.9, 0.5, 0.01])
def test_truncated_checkpoint(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "cut.pth"
    torch.save(small().state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(ModelLoadError, match=r"cut\.pth is truncated, damaged or no PyTorch file"):
        read_checkpoint(path)


def test_checkpoints_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty.pth").touch()
    with pytest.raises(ModelLoadError, match=r"empty\.pth is empty \(0 bytes\)"):
        read_checkpoint(tmp_path / "empty.pth")
    with pytest.raises(ModelLoadError, match="is a folder"):
        read_checkpoint(tmp_path)
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(ModelLoadError, match=r"text\.pth is truncated, damaged or no PyTorch file"):
        read_checkpoint(tmp_path / "text.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, not a state dict"),
        (torch.zeros(3), "holds a Tensor, not a state dict"),
        ({}, "holds an empty state dict"),
        ({"epoch": 3}, "is not a state dict: epoch is no tensor"),
        ({"a": 1, "b": 2, "c": 3, "d": 4}, "is not a state dict: a, b, c, ... are no tensor"),
    ],
)
def test_not_a_state_dict(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ModelLoadError, match=message):
        read_checkpoint(tmp_path / "w.pth")


def test_checkpoint_of_another_architecture() -> None:
    module = small()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    state = dict(before) | {"0.weight": torch.zeros(4, 3, 5, 5), "9.weight": torch.zeros(1)}
    del state["1.weight"], state["1.bias"]
    message = (
        "the checkpoint w.pth is of another architecture: 2 of 7 tensors missing: 1.weight, "
        "1.bias; 1 of 6 tensors unexpected: 9.weight; 1 of 7 tensors of another shape: 0.weight "
        "(4x3x5x5 in the file, 4x3x3x3 in the model)"
    )
    with pytest.raises(ModelLoadError, match=re.escape(message)):
        load_state(module, state, "w.pth")
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_batch_counters_may_be_missing() -> None:
    state = small().state_dict()
    del state["1.num_batches_tracked"]
    load_state(small(), state, "old.pth")


def test_tensors_by_order() -> None:
    module = small()
    renamed = {f"x{i}": v for i, v in enumerate(module.state_dict().values())}
    assert in_order_of(module, renamed, "w.pth").keys() == module.state_dict().keys()
    with pytest.raises(ModelLoadError, match="holds 6 tensors where the model has 7"):
        in_order_of(module, dict(list(renamed.items())[1:]), "w.pth")
    with pytest.raises(ModelLoadError, match=r"architecture: x0 is 2x2 where 0\.weight is 4x3x3x3"):
        in_order_of(module, renamed | {"x0": torch.zeros(2, 2)}, "w.pth")
