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
from fullgrad.vision.checkpoints import (
    in_order_of,
    load_checkpoint,
    load_state,
    open_checkpoint,
    read_checkpoint,
)

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
        with pytest.raises(ModelLoadError, match="is truncated, damaged or not a safetensors file"):
            read_checkpoint(path)


def test_code_in_a_checkpoint_is_not_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (mark,))

    path = tmp_path / "evil.pth"
    message = r"evil\.pth holds more than tensors \(getattr\): loading it would execute code in it, which full"
    torch.save({"state_dict": small().state_dict(), "extra": Evil()}, path)
    with pytest.raises(ModelLoadError, match=message):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ModelLoadError, match=r"evil\.pth (holds more than tensors|is truncated)"):
        read_checkpoint(path)
    assert not mark.exists()


def test_a_pickled_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the way out that the message names works."""
    monkeypatch.chdir(tmp_path)
    model, state, other = small(), small().state_dict(), Path("x")
    for number, saved in enumerate(
        (
            model,
            {"model": model, "epoch": 3},
            {"model": state, "args": other},
            {"state_dict": state, "hyper_parameters": other},
        )
    ):
        path = tmp_path / f"whole{number}.pth"
        torch.save(saved, path)
        with pytest.raises(ModelLoadError, match="Where you trust the file, save its weights") as e:
            read_checkpoint(path)
        command = str(e.value).partition("give that: ")[2].removeprefix("python -c ")
        exec(command.strip('"'), {})
        assert read_checkpoint(tmp_path / "weights.pt").keys() == state.keys()
        Path("weights.pt").unlink()


def lightning(state: dict[str, Any]) -> dict[str, Any]:
    """What Lightning's Trainer.save_checkpoint writes, as far as it is of plain types."""
    return {
        "epoch": 3,
        "global_step": 120,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []}],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1, "width": 4, "name": "own"},
    }


STATE = {f"model.{k}": v for k, v in small().state_dict().items()}
OTHER = {"criterion.weight": torch.ones(3), "metric.total": torch.ones(())}


@pytest.mark.parametrize(
    ("content", "left"),
    [
        (lightning(STATE), 0),
        (lightning({**STATE, **OTHER}), 2),
        ({"net": {f"backbone.{k[6:]}": v for k, v in STATE.items()}}, 0),
        ({f"_orig_mod.module.{k[6:]}": v for k, v in STATE.items()}, 0),
        ({"n_averaged": torch.tensor(3), **{f"module.{k[6:]}": v for k, v in STATE.items()}}, 1),
        ({"checkpoint": {"weights": {"deep": STATE}}, "args": [1, "a"]}, 0),
        ({"model": STATE, "optimizer": {"state": {"a": torch.ones(1)}}}, 0),
    ],
    ids=["lightning", "with a loss", "backbone", "compiled", "averaged", "deep", "optimizer"],
)
def test_weights_are_found_wherever_they_stand(tmp_path: Path, content: Any, left: int) -> None:
    path, module = tmp_path / "w.ckpt", small()
    torch.save(content, path)
    notes = load_checkpoint(module, path)
    assert torch.equal(module[0].weight, STATE["model.0.weight"])
    assert [note for note in notes if "left out" in note] == (
        [note for note in notes if f"w.ckpt: left out {left} tensor" in note] if left else []
    )
    assert bool(notes) == bool(left)


def test_a_model_that_is_wrapped_where_the_file_is_not(tmp_path: Path) -> None:
    path, wrapped = tmp_path / "w.pt", nn.ModuleDict({"body": small()})
    torch.save({k[6:]: v for k, v in STATE.items()}, path)
    assert load_checkpoint(wrapped, path) == ()
    assert torch.equal(wrapped["body"][0].weight, STATE["model.0.weight"])


def test_means_over_steps_are_chosen_by_name(tmp_path: Path) -> None:
    path = tmp_path / "w.ckpt"
    averaged = {k: v + 1 for k, v in STATE.items()}
    torch.save({"state_dict": STATE, "ema": {"shadow": averaged}}, path)
    module = small()
    (note,) = load_checkpoint(module, path)
    assert torch.equal(module[0].weight, STATE["model.0.weight"])
    way_out = note.rpartition("choose those with ")[2]
    assert note.endswith(f"under ema.shadow: choose those with {path}#ema.shadow")
    load_checkpoint(module, way_out)
    assert torch.equal(module[0].weight, averaged["model.0.weight"])
    assert open_checkpoint(way_out).under == "ema.shadow"
    with pytest.raises(ModelLoadError, match=r"no weights under 'emma'; there are some under: sta"):
        open_checkpoint(f"{path}#emma")
    torch.save({"ema_model": averaged}, path)  # the only ones
    assert load_checkpoint(module, path) == ()


def test_several_weights_are_not_chosen_between(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"generator": STATE, "critic": STATE}, path)
    with pytest.raises(ModelLoadError, match=r"several weights, under generator, critic: choose w"):
        load_checkpoint(small(), path)
    assert load_checkpoint(small(), f"{path}#critic")[0].startswith(f"{path} has weights under cr")
    twice = {f"{who}.{k}": v for who in ("left", "right") for k, v in STATE.items()}
    torch.save(twice, path)
    with pytest.raises(ModelLoadError, match=r"several times, as left\.model\.0\.weight, right\.m"):
        load_checkpoint(small(), path)


def test_a_difference_is_told_by_names_and_shapes(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"net.0.weight": torch.ones(4, 3, 3, 3), "net.9.bias": torch.ones(4)}, path)
    message = (
        r"of another architecture: 5 of 7 tensors missing: 0\.bias, 1\.weight, 1\.bias, \.\.\.; 1 of "
        r"2 tensors unexpected: 9\.bias\. The first that differ: 9\.bias \(4\) in the file, 0\.bias "
        r"\(4\) in the model$"
    )
    with pytest.raises(ModelLoadError, match=message):
        load_checkpoint(small(), path)
    torch.save(nn.Linear(4, 3).state_dict(), path)
    with pytest.raises(
        ModelLoadError, match=r"has 3 classes, the model's 9: give --num-classes 3$"
    ):
        load_checkpoint(nn.Linear(4, 9), path)
    with pytest.raises(ModelLoadError, match=r"weight \(3x4 in the file, 3x5 in the model\)$"):
        load_checkpoint(nn.Linear(5, 3), path)


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
        ({"epoch": 3}, "is not a state dict: epoch is not a tensor"),
        ({"a": 1, "b": 2, "c": 3, "d": 4}, "is not a state dict: a, b, c, ... are not tensors"),
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
