"""A vision transformer of two blocks, in every style of attention, for several test files."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, HEADS, PATCH = 8, 2, 4


def images(count: int = 2, size: int = 16) -> Tensor:
    generator = torch.Generator(torch.get_default_device()).manual_seed(5)
    return torch.randn(count, 3, size, size, dtype=torch.float64, generator=generator)


class Attention(nn.Module):
    """Self-attention that notes its weights in ``seen`` where it writes them out."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.seen: Tensor | None = None

    def forward(self, t: Tensor) -> Tensor:
        b, n, _ = t.shape
        q, k, v = self.qkv(t).reshape(b, n, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        if self.style == "fused":
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
            weights = torch.softmax(scores, -1)
            self.seen = weights
            if self.style == "einsum":
                y = torch.einsum("bhij,bhjd->bhid", weights, v)
            elif self.style == "scaled":
                y = (weights * 0.5) @ v
            elif self.style == "transposed":
                y = weights.transpose(-2, -1) @ v
            elif self.style == "twice":
                y = weights @ v + weights @ v.flip(-1)
            else:
                y = weights @ v
        return self.out(y.transpose(1, 2).reshape(b, n, -1))


class Module(nn.Module):
    """The same with ``nn.MultiheadAttention``."""

    def __init__(self, needed: bool) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.needed = needed

    def forward(self, t: Tensor) -> Tensor:
        y: Tensor = self.inner(t, t, t, need_weights=self.needed)[0]
        return y


class Block(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(WIDTH), attention, nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 12), nn.GELU(), nn.Linear(12, WIDTH))

    def forward(self, t: Tensor) -> Tensor:
        t = t + self.attn(self.norm1(t))
        out: Tensor = t + self.mlp(self.norm2(t))
        return out


class Patches(nn.Module):
    """Patches, two blocks, and a head.

    Args:
        pool: what the head reads: a ``class`` token, the mean of ``two``, or the ``mean`` of all.
        style: of attention.
    """

    def __init__(self, pool: str = "class", style: str = "written") -> None:
        super().__init__()
        self.pool = pool
        self.cut = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.tokens = nn.Parameter(torch.randn(1, {"class": 1, "two": 2}.get(pool, 0), WIDTH))
        self.places = nn.Parameter(torch.randn(1, self.tokens.shape[1] + 16, WIDTH))
        self.aside, self.unused = nn.Conv2d(3, 2, 3), nn.Identity()
        self.blocks = nn.Sequential(*(Block(self._attention(style)) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)
        self.double()

    @staticmethod
    def _attention(style: str) -> nn.Module:
        if style in ("module", "weights"):
            return Module(style == "weights")
        return Attention(style)

    def forward(self, x: Tensor) -> Tensor:
        self.aside(x)
        t = self.cut(x).flatten(2).transpose(1, 2)
        t = torch.cat([self.tokens.expand(len(x), -1, -1), t], 1) + self.places
        t = self.norm(self.blocks(t))
        count = self.tokens.shape[1]
        out: Tensor = self.head((t[:, :count] if count else t).mean(1))
        return out
