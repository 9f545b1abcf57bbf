"""Artifacts give what fullgrad gives, without it; what they cannot hold is refused, and nothing is left."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fullgrad
from fullgrad.errors import GraphError, MissingDependencyError, OptionError, StoredError
from fullgrad.interop.compiling.call import Found
from fullgrad.interop.exporting import _files
from fullgrad.interop.exporting._checking import compared
from networks import NormalizedLast

ALONE = """\
import sys
sys.modules["fullgrad"] = None
import numpy as np
given = np.load("given.npz")
if sys.argv[1] == "map.onnx":
    import onnxruntime
    session = onnxruntime.InferenceSession("map.onnx", providers=["CPUExecutionProvider"])
    found = session.run(["logits", "map", "residual"], {"input": given["x"], "target": given["target"]})
else:
    import torch
    run = torch.export.load(sys.argv[1]).module()
    found = [t.numpy() for t in run(*(torch.from_numpy(given[name]) for name in ("x", "target")))]
np.savez("found.npz", logits=found[0], map=found[1], residual=found[2])
"""


def small() -> nn.Module:
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
    rest = nn.Conv2d(6, 6, 3, groups=2), nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    return nn.Sequential(*stem, *rest, nn.Linear(24, 5)).eval()


def _plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten())


X = torch.rand(2, 3, 16, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("file", "method"),
    [("map.onnx", "balanced_fullgrad"), ("map.pt2", "fullgrad")],
    ids=["onnx-balanced", "torch-fullgrad"],
)
def test_a_file_runs_without_fullgrad(
    file: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, x = small(), X.flip(0) * 2 - 0.5
    made = fullgrad.export(model, X, file, method=method)
    assert [p.name for p in made.inputs] == ["input", "target"]
    assert [p.name for p in made.outputs] == ["logits", "map", "residual"]
    assert made.outputs[1].shape == (2, 1, 16, 12)
    assert made.size == Path(file).stat().st_size
    assert made.compared.samples == 4 and made.compared.equal >= 2
    assert made.in_pytorch.equal >= 2 and made.in_pytorch.difference < 1e-5
    np.savez("given.npz", x=x.numpy(), target=np.array([4, -1]))
    command = [sys.executable, "-I", "-W", "ignore", "-c", ALONE, file]
    subprocess.run(command, check=True, timeout=100)
    found = np.load("found.npz")
    logits = model(x).detach()
    wanted = fullgrad.methods.attribute(method, model, x, [4, int(logits[1].argmax())])
    assert np.abs(found["logits"] - logits.numpy()).max() < 1e-5
    assert np.abs(found["map"] - wanted.numpy()).max() <= 1e-4 * wanted.abs().max()
    assert np.abs(found["residual"]).max() < 1e-5
    assert b"site-packages" not in Path(file).read_bytes()  # where it was traced
    assert X[0, 0, 0].numpy().tobytes() not in Path(file).read_bytes()  # what it was traced with


def test_numbers_that_it_does_not_hold_for_give_nan(tmp_path: Path) -> None:
    run = _loaded(fullgrad.export(small(), X, tmp_path / "map.pt2"))
    _, heat, residual = run(X, torch.tensor([5, 4]))  # there is no sixth class
    assert heat[0].isnan().all() and residual[0].isnan()
    assert heat[1].isfinite().all() and residual[1].isfinite()
    _, heat, residual = run(X * torch.inf, torch.tensor([0, 0]))
    assert heat.isnan().all() and residual.isnan().all()
    with pytest.raises(Exception, match="Guard failed"):
        run(X[:1], torch.tensor([0]))


def _loaded(made: fullgrad.interop.exporting.artifact.Artifact) -> Any:
    return torch.export.load(made.path).module()


class _Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 3), nn.Linear(6, 3)

    def forward(self, a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
        return (self.one(a).tanh() + self.other(b)) * scale


def test_several_inputs_have_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    given, scale = (torch.rand(3, 4, 1), torch.rand(3, 6, 1)), torch.rand(3, 1)

    class Flat(_Two):
        def forward(self, a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
            return super().forward(a.flatten(1), b.flatten(1), scale)

    call: dict[str, Any] = {"forward_kwargs": {"scale": scale}, "method": "complete_fullgrad"}
    made = fullgrad.export(Flat(), given, tmp_path / "map.pt2", target=[0, 1, 2], **call)
    assert [p.name for p in made.inputs] == ["input_0", "input_1", "scale", "target"]
    assert [p.name for p in made.outputs] == ["logits", "map_input_0", "map_input_1", "residual"]


class _Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.rest = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.rest((logits + self.words(target)).tanh()).mean(1)


def test_names_that_the_file_has_for_other_things(tmp_path: Path) -> None:
    torch.manual_seed(0)
    call = {"forward_kwargs": {"target": torch.tensor([[1, 2], [3, 8]])}, "layout": "BTC"}
    given = {"logits": torch.rand(2, 2, 4)}
    made = fullgrad.export(_Words(), given, tmp_path / "map.pt2", **call)
    assert [p.name for p in made.inputs] == ["logits_", "target_", "target"]
    assert made.compared.samples == 4  # words are no images: the same ones, with other classes


def test_an_output_without_classes_takes_no_target(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(280, 1), nn.Flatten(0))
    made = fullgrad.export(model, X, tmp_path / "map.pt2")
    assert [p.name for p in made.inputs] == ["input"]
    logits, heat, _ = _loaded(made)(X)
    assert torch.equal(logits, model(X)) and torch.equal(heat, fullgrad.saliency(model, X))


class _Sampled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.theta = nn.Conv2d(3, 2, 3), torch.eye(2, 3)[None]

    def forward(self, x: Tensor) -> Tensor:
        grid = F.affine_grid(self.theta.expand(len(x), 2, 3) * 0.8, x.shape, align_corners=False)
        return F.grid_sample(self.conv(x), grid[:, :9, :9], align_corners=False).mean((2, 3))


def test_an_operation_without_translation_is_named_and_the_way_out_works(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = _Sampled()
    says = (
        r"grid_sampler_2d_backward to no ONNX operation\. Export to a \.pt2 file: format='torch' or"
    )
    with pytest.raises(GraphError, match=says):
        fullgrad.export(model, X, tmp_path / "map.onnx")
    assert not [*tmp_path.iterdir()]
    fullgrad.export(model, X, tmp_path / "map.pt2", format="torch")


def test_other_precisions_are_refused_by_the_runtime(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"ONNX Runtime refuses the file: .*format='torch'"):
        fullgrad.export(_plain().double(), X.double(), tmp_path / "map.onnx")
    with pytest.raises(GraphError, match=r"ONNX Runtime cannot run the file: .*format='torch'"):
        fullgrad.export(_plain().half(), X.half(), tmp_path / "map.onnx")
    assert not [*tmp_path.iterdir()]
    fullgrad.export(_plain().half(), X.half(), tmp_path / "map.pt2", format="torch")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda found: (found[0] + 1, *found[1:]),
            "gives other logits than the model: by .* No file",
        ),
        (
            lambda found: (found[0], found[1] * 1.01, found[2]),
            "gives other maps than fullgrad: by 0.0",
        ),
        (
            lambda found: (*found[:2], found[2] * torch.nan),
            "gives other maps than fullgrad: by nan",
        ),
    ],
    ids=["logits", "map", "residual"],
)
def test_a_file_that_differs_is_not_kept(
    change: Any, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suffix, write, load = _files.FORMATS["torch"]

    def wrong(path: Path) -> Any:
        run = load(path)
        return lambda *given: change(run(*given))

    monkeypatch.setitem(_files.FORMATS, "torch", (suffix, write, wrong))
    (tmp_path / "map.pt2").write_text("the earlier one")
    with pytest.raises(GraphError, match=says):
        fullgrad.export(_plain(), X, tmp_path / "map.pt2")
    assert [p.name for p in tmp_path.iterdir()] == ["map.pt2"]
    assert (tmp_path / "map.pt2").read_text() == "the earlier one"


def test_what_cannot_be_written_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _plain()
    for options, kind, says in (
        ({"format": "tflite"}, OptionError, "format must be one of torch, aot_inductor, onnx, not"),
        ({"format": "onnx"}, OptionError, "a file of format 'onnx' ends with .onnx, not 'map.pt2'"),
        ({"method": "path_fullgrad"}, OptionError, "method must be one of fullgrad, "),
        ({"samples": 3}, OptionError, "has no option 'samples'"),
    ):
        with pytest.raises(kind, match=says):
            fullgrad.export(model, X, tmp_path / "map.pt2", **options)  # type: ignore[arg-type]
    with pytest.raises(StoredError, match=r"the folder of .*map.pt2 does not exist"):
        fullgrad.export(model, X, tmp_path / "none" / "map.pt2")
    (tmp_path / "map.pt2").mkdir()
    with pytest.raises(StoredError, match=r"map\.pt2 is a folder: name a file"):
        fullgrad.export(model, X, tmp_path / "map.pt2")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingDependencyError, match="onnxscript cannot be imported"):
        fullgrad.export(model, X, tmp_path / "map.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["map.pt2"]


def test_a_compiler_that_fails_and_a_model_too_large_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _plain()

    def fails(*_: Any) -> None:
        raise RuntimeError("no C++ compiler\nis here")

    monkeypatch.setattr("fullgrad._compat.compiled_package", fails)
    with pytest.raises(
        GraphError, match=r"compiler fails: no C\+\+ compiler\. Export with format='t"
    ):
        fullgrad.export(model, X, tmp_path / "map.pt2", format="aot_inductor")
    monkeypatch.setattr(_files, "_LARGEST", 100)
    with pytest.raises(GraphError, match=r"holds 0\.0 GB, more than one ONNX file"):
        fullgrad.export(model, X, tmp_path / "map.onnx")
    assert not [*tmp_path.iterdir()]


def test_a_batch_whose_memory_layout_pytorch_expects_otherwise(tmp_path: Path) -> None:
    made = fullgrad.export(NormalizedLast().eval(), X, tmp_path / "map.pt2")
    assert made.compared.equal == made.compared.samples == 4


def test_a_graph_that_pytorch_cannot_export_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise ValueError("no view of it\nUse tlparse")

    model = _plain()
    monkeypatch.setattr("torch.export.export", fails)
    with pytest.raises(
        GraphError, match=r"cannot hold the graph: no view of it\. Use fullgrad\.compile, which"
    ):
        fullgrad.export(model, X, tmp_path / "map.pt2")
    assert not [*tmp_path.iterdir()]
    assert fullgrad.compile(model, X)(X).map.shape == (2, 1, 16, 12)


def test_maps_that_all_jump_with_rounding_prove_nothing() -> None:
    x, rows = torch.rand(2, 3, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.long)

    def explain(tensors: Any, _: Tensor, factor: float = 1e16) -> Found:
        (given,) = tensors
        return Found(((given * factor).sin(),), given[:, 0], given[:, 0] * 0, rows[:, 0], (3,))

    def run(given: Tensor, _: Tensor) -> tuple[Tensor, ...]:
        return given, explain([given], rows, 1.1e16).maps[0], given[:, 0] * 0

    with pytest.raises(GraphError, match="the map of each sample jumps with rounding"):
        compared(run, explain, [x], rows, same_kernels=True)
    assert compared(run, explain, [x], rows, same_kernels=False).equal == 0
