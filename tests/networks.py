"""Small networks that several test files share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def vgg_like() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(768, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    ).double()


class _Block(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.down = nn.Sequential(
            nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.down(x))


class ResNetLike(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.block1 = _Block(8, 12, 1)
        self.block2 = _Block(12, 16, 2)
        self.fc = nn.Linear(16, 10)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.bn(self.stem(x))))
        return self.fc(self.block2(self.block1(x)).mean((2, 3)))


def seeded(build: type[nn.Module] | object, seed: int = 0) -> nn.Module:
    """A network with random biases, scales and statistics."""
    torch.manual_seed(seed)
    model: nn.Module = build()  # type: ignore[operator]
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.is_floating_point() and tensor.dim() == 1:
                positive = name.endswith(("weight", "var"))
                values = torch.randn_like(tensor) * 0.3
                tensor.copy_(0.5 + values.abs() if positive else values)
    return model


# -- text: ids and classifiers of them ---------------------------------------------------------

WORDS, TOKENS, CHANNELS = 20, 6, 8


def ids(batch: int = 3, tokens: int = TOKENS, seed: int = 0) -> Tensor:
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    return torch.randint(1, WORDS, (batch, tokens), generator=generator)


def mask_of(x: Tensor, *lengths: int) -> Tensor:
    return (torch.arange(x.shape[1]) < torch.tensor(lengths)[:, None]).long()


class Classifier(nn.Module):
    """Own embedding, a body, and a classifier on the mean or the last token."""

    def __init__(self, kind: str = "transformer", **options: Any) -> None:
        super().__init__()
        self.kind = kind
        self.embed = nn.Embedding(WORDS, CHANNELS, **options)
        c = CHANNELS
        bodies: dict[str, Callable[[], nn.Module]] = {
            "transformer": lambda: nn.TransformerEncoderLayer(c, 2, 16, batch_first=True),
            "mlp": lambda: nn.Sequential(nn.Linear(c, c), nn.GELU(), nn.LayerNorm(c)),
            "lstm": lambda: nn.LSTM(c, c, 2, batch_first=True, bidirectional=True),
            "gru": lambda: nn.GRU(c, c),
            "conv": lambda: nn.Sequential(
                nn.Conv1d(c, c, 3, stride=2, padding=1),
                nn.GELU(),
                nn.Conv1d(c, c, 2, padding=3),
                nn.GELU(),
            ),
        }
        self.body = bodies[kind]()
        self.head = nn.Linear(2 * c if kind == "lstm" else c, 3)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.kind == "gru":  # sequence first
            return self.head(self.body(self.embed(tokens.t()))[0][-1])
        x = self.embed(tokens)
        if self.kind == "conv":
            return self.head(self.body(x.transpose(1, 2)).mean(2))
        y = self.body(x)
        y = y[0] if isinstance(y, tuple) else y
        if mask is not None:
            return self.head((y * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
        return self.head(y.mean(1))


def classifier(kind: str = "transformer", **options: Any) -> Classifier:
    torch.manual_seed(0)
    return Classifier(kind, **options).double()


# -- a network whose training mode and buffers show -------------------------------------------


def dropout_net() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(20, 6),
    )
    seeded(lambda: model.double())
    with torch.no_grad():
        model[8].weight.mul_(10)  # so that not all samples are of one class
    return model.train()


def small_images(count: int = 2) -> Tensor:
    drawn = torch.Generator(torch.get_default_device()).manual_seed(1)
    return torch.randn(count, 3, 8, 8, dtype=torch.float64, generator=drawn)


class Weighted(nn.Module):
    """Takes a weight for each sample, and a table that only looks as if it did."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = dropout_net()

    def forward(self, x: Tensor, weight: Tensor, more: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": self.inner(x) * weight[:, None] + more["table"].sum()}


class NormalizedLast(nn.Module):
    """A layer norm over channels that lie last, whose gradient comes back permuted (Swin)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.norm, self.head = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.linear(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        out: Tensor = self.head(x.mean((2, 3)))
        return out
