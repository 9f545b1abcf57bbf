"""The models that are measured and their inputs, the same on every machine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

SIZE = 224


@dataclass(frozen=True, slots=True)
class Subject:
    """A torchvision classifier.

    Args:
        name: torchvision's, and on the command line.
        label: in tables and plots.
        cost: 10⁹ multiplications for one image of 224 × 224, to tell how much time is left.
        compared: one of the models of the comparison; else for growth and the guard only.
    """

    name: str
    label: str
    cost: float
    compared: bool = True


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("resnet18", "ResNet-18", 1.8),
        Subject("resnet50", "ResNet-50", 4.1),
        Subject("vgg16_bn", "VGG-16-BN", 15.5),
        Subject("mobilenet_v3_large", "MobileNetV3", 0.2),
        Subject("efficientnet_b0", "EfficientNet-B0", 0.4),
        Subject("convnext_tiny", "ConvNeXt-T", 4.5),
        Subject("vit_b_16", "ViT-B/16", 17.6),
        Subject("swin_t", "Swin-T", 4.5),
        Subject("resnet34", "ResNet-34", 3.7, compared=False),
        Subject("resnet101", "ResNet-101", 7.8, compared=False),
    )
}
COMPARED = tuple(name for name, subject in SUBJECTS.items() if subject.compared)


@dataclass(frozen=True, slots=True)
class Workload:
    """What every method of one cell is given.

    Args:
        model: in evaluation mode; parameters require gradients, as in any loaded model.
        x: a batch, not a leaf of any graph.
        target: the predicted class of each sample, chosen once so that no method pays for it.
    """

    model: nn.Module
    x: Tensor
    target: Tensor


def workload(model: nn.Module, x: Tensor) -> Workload:
    """The workload of any classifier.

    Args:
        model: from (B, C, H, W) to (B, classes).
        x: a batch.

    Returns:
        The workload, the model in evaluation mode.
    """
    model.eval()
    with torch.no_grad():
        return Workload(model, x, model(x).argmax(1))


def build(name: str, batch: int, size: int, dtype: torch.dtype, device: str) -> Workload:
    """A model with seeded random weights, and seeded noise for it.

    Args:
        name: one of ``SUBJECTS``.
        batch: samples.
        size: height and width.
        dtype: of parameters and input.
        device: ``cpu`` or ``cuda``.

    Returns:
        The workload.
    """
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).to(device)
    make_lively(model, torch.randn(4, 3, size, size).to(device))
    x = torch.randn(batch, 3, size, size).to(device, dtype)
    return workload(model.to(dtype), x)


def series(steps: int) -> Workload:
    """An LSTM over a long series: seven units, five channels, read off the last step.

    Args:
        steps: of each of the two samples.

    Returns:
        The workload in float32 on the CPU; x has shape (2, 5, steps).
    """
    torch.manual_seed(0)
    return workload(_Series(), torch.randn(2, 5, steps))


class _Series(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.head = nn.LSTM(5, 7, batch_first=True), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.recurrent(x.transpose(1, 2))[0][:, -1])
        return out


def make_lively(model: nn.Module, x: Tensor) -> None:
    """Keep a fresh model's numbers from dying out, as training would have done.

    With untouched batch-norm statistics the outputs of deep models fall to 1e-14 or grow to 1e5,
    and some heads start as zeros, so that every gradient is zero. Time could depend on that:
    zeros, subnormal numbers.

    Args:
        model: changed in place: batch-norm statistics become those of ``x``, and weights that
            are all zero are drawn at random.
        x: a batch.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    momenta = [m.momentum for m in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches seen: here, this batch's own
        norm.train()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1 and not p.any():
                nn.init.normal_(p, std=0.02)
        model(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
